"""The tools: records, notebooks, reports and checks. Nothing in here changes a number."""
