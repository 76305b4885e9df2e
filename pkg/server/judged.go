package server

import (
	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// judged hands every ruling on a call to whoever keeps, logs or compares it. It is on the way of every call: it must not wait, and keep
// nothing of the question after it has returned.
func (s *Server) judged(q *policy.Question, r *policy.Ruling, snap *gateway.Snapshot) {
	d := s.decisions.Load()
	wanted := d != nil && (d.log != nil || d.compare)
	if !wanted && !s.kept.recent.Keeps() {
		return
	}
	q = q.Clone() // one for all: nobody changes it
	s.kept.recent.Add(q, r, snap.Policy, snap.Version())
	if wanted {
		d.put(s.shadow, decision.Entry{Question: q, Ruling: *r})
	}
}
