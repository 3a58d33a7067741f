"""Makes plain views of artifacts: finds compressed members, and the recipes that give their very bytes again."""
