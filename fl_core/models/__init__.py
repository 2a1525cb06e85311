"""Models: a file a model, `build(*, inputs, outputs, **options)`, initialised as it should start.

`inputs` is the shape of one sample, `outputs` the number of outputs a sample. Random initial weights come
from torch's global generator, which the caller has seeded.
"""
