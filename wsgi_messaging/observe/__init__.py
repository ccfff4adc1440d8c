"""What the workers of an application show of themselves: status over all of them, a page, health, metrics, traces.

Nothing here is imported by an application that asks for none of it.
"""
