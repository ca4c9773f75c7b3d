"""Work of a stage on a Ray cluster instead of in one process on this machine (`execution.engine: ray`).

`connection.py` connects, `executor.py` maps a function over tasks through `prefect-ray`, `worker.py` is what every task
asks of its node; the other files say what the tasks of each stage are. Nothing here is imported, and Ray need not be
installed, unless it is chosen.
"""
