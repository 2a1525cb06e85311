"""Algorithm 1 and all it needs: problems, clients, the server, and how local work is executed.

What a user's own files import:

    from fl_core import Algorithm, Client, FederatedData, Message, Replies, Server, State, zeros

What a notebook imports:

    from fl_core import Experiment, run
"""

import os

# MKL's products round by where their operands lie in memory (three shapes of four, measured), so one client's gradient
# would depend on its neighbours' sizes and on which worker holds the data. This mode costs nothing that was measurable.
# MKL reads it at its first product, which is after this line.
os.environ.setdefault("MKL_CBWR", "AUTO")

from fl_core.algorithm import Algorithm
from fl_core.client import Client, Message
from fl_core.datasets import FederatedData, Samples
from fl_core.experiment.schema import Experiment
from fl_core.gradient_method import GradientMethod, InitialRound
from fl_core.replies import Replies
from fl_core.results import Results, RunResult
from fl_core.running import run
from fl_core.server import Server
from fl_core.state import State, zeros

__all__ = [
    "Algorithm",
    "Client",
    "Experiment",
    "FederatedData",
    "GradientMethod",
    "InitialRound",
    "Message",
    "Replies",
    "Results",
    "RunResult",
    "Samples",
    "Server",
    "State",
    "run",
    "zeros",
]
