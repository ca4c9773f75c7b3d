"""Every night again: the warmup that is kept, the gate that promotes, what is live, and the history of it.

`warmup` decides whether the pinned warmup still fits, so that only new rows cost a gradient; `gate` whether an adapter
may go live, from the tables alone; `pointer` is what is live, switched in one step; `fates` and `changes` say which
rows left or entered the selection and why; `night` is the record of it all, `history` where records are kept, `show`
how they are told; `flow` joins them around the pipeline.
"""
