"""The stages: each turns the outputs of earlier ones into a folder of the store. No Prefect here; `flows.pipeline`
wraps them."""
