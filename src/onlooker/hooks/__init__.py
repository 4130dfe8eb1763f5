"""What runs on the agent side. Imports nothing of Onlooker."""
