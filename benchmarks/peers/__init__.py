"""One module for each peer.

`operations(plan, action)` gives one callable for each caller, connected at its first call; `serve`, `listen` and
`consume` give a session; `session` is for peers that are not driven by threads. What a peer does not have is
`NotOffered`. Where a library can be used in several ways, the module's header says which was taken: the one that its
documentation recommends for threads, with its defaults unless these would make it slower than it needs to be.
"""
