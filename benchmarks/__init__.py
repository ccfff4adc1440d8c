"""Side by side with the peers: the numbers of the documentation, reproduced by `make bench`.

Each peer runs each workload in a process of its own; the runner lets them take turns, in reversed order every round,
so that what a neighbour on the machine takes is taken from all of them. What is compared is the ratio within a round.
"""
