"""The benchmarks: what xenfast costs, beside other engines in the same run.

``make bench`` runs them all, ``python -m benchmarks NAME`` runs bench_NAME.py.
"""
