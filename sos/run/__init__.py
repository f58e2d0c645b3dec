"""The runner behind run_all.sh: plan, trainings, notebooks, released weights."""

__all__ = ["catalogue", "execute", "options", "plan", "prepare", "runner"]
