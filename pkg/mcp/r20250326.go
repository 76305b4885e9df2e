package mcp

// methods20250326 is what a client of 2025-03-26 may send: the same methods as later sessions. Its JSON-RPC batches are refused.
var methods20250326 = methods20251125
