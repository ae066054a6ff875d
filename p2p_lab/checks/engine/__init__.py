"""How an answer is called, judged and graded, and what is said of it."""
