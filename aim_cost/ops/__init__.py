"""Ops: FLOPs and bytes of each kernel, of token reduction and of scores."""
