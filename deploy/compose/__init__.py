"""What docker-compose.yml needs beside the services: an account to play with, and referrals for it."""
