package mcp

// methods20250618 is what a client of 2025-06-18 may send: the same methods as 2025-11-25, which added members and tasks only.
var methods20250618 = methods20251125
