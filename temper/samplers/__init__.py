"""Who answers, without torch: scripted (the public test double), replay (stored rows), remote (OpenAI-compatible)."""
