.PHONY: demo test lint bench
demo: ; ./run demo
test: ; ./run test
lint: ; ./run lint
bench: ; ./run bench
