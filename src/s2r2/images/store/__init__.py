"""Pixels kept decoded, made once and shared by every run; or decoded whenever they are asked for."""
