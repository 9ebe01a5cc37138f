"""The scheduler: one leader that relays, releases due jobs, rescues, and cleans up.

``service`` runs the loop, ``tasks`` and ``missing`` hold what it does, ``decisions`` and ``contact`` the pure rules by
which it does it.
"""
