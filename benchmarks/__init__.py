"""Commands that measure, print a table and keep the numbers as JSON; `rivulet bench NAME` runs them.

Every figure that the README or a card claims comes from here. Add one: a module with `measure(...) -> dict`
and `table(result)`, a name in app/cli/bench.py.
"""
