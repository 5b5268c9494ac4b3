"""Studies of many estimates: compare, plan, equal budgets, evidence of accuracy."""
