.PHONY: demo test lint bench docs
demo: ; ./run demo
test: ; ./run test
lint: ; ./run lint
bench: ; ./run bench
docs: ; ./run docs
