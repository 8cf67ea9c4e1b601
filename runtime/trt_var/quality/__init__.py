"""Judging pictures: a bundle's judge, agreement, samples for published evaluators."""
