package server

import (
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// judged hands every ruling on a call to whoever keeps, logs or compares it. It is on the way of every call: it must not wait, and keep
// nothing of the question after it has returned.
func (s *Server) judged(q *policy.Question, r *policy.Ruling, snap *gateway.Snapshot) {
	if !s.kept.recent.Keeps() {
		return
	}
	s.kept.recent.Add(q.Clone(), r, snap.Policy, snap.Version())
}
