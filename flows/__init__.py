"""Prefect flows, run configuration, stage store, command line and report: the only floor that knows Prefect."""
