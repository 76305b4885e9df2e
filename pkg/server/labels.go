package server

import (
	"github.com/mcpgw/mcpgw/pkg/session"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// openLabels opens the store of what callers without a session are marked with.
func (s *Server) openLabels(c *configv1.Labels) (*session.Labels, error) {
	return session.OpenLabels(session.LabelOptions{
		File: c.GetFile(), Expiry: c.GetExpiry().AsDuration(), Callers: int(c.GetCallers()),
		Warn: func(message string, err error) {
			if err != nil {
				s.log.Warn(message, "file", c.GetFile(), "error", err)
				return
			}
			s.log.Warn(message, "file", c.GetFile())
		},
	})
}
