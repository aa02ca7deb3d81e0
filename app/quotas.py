"""`python -m app.quotas TEAM [NAME=NUMBER …]`: show or change what a team may use."""

from app.store.quotas import main

if __name__ == "__main__":
    main()
