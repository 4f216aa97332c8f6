"""Nexmark: an auction house as a stream of persons, auctions and bids, and queries over it."""
