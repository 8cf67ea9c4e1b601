"""The app on Ray Serve. Whatever is in here imports Ray; nothing else imports what is in here."""
