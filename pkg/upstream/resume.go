package upstream

import "github.com/mcpgw/mcpgw/pkg/mcp"

// Resume is a session that was opened before, made from what a store kept of it. Its Result is not known.
func (c *Client) Resume(id string, revision mcp.Revision) *Session {
	return &Session{ID: id, Revision: revision, client: c}
}
