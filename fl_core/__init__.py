"""Algorithm 1 and all it needs: problems, clients, the server, and how local work is executed.

What a user's own files import:

    from fl_core import Algorithm, Client, FederatedData, Message, Replies, Server, State, zeros
"""

from fl_core.algorithm import Algorithm
from fl_core.client import Client, Message
from fl_core.datasets import FederatedData, Samples
from fl_core.gradient_method import GradientMethod, InitialRound
from fl_core.replies import Replies
from fl_core.server import Server
from fl_core.state import State, zeros

__all__ = [
    "Algorithm",
    "Client",
    "FederatedData",
    "GradientMethod",
    "InitialRound",
    "Message",
    "Replies",
    "Samples",
    "Server",
    "State",
    "zeros",
]
