package server

import (
	"slices"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/identity"
)

// routes is what operators may ask and do.
func (s *Server) routes() []admin.Route {
	return slices.Concat(s.approvalRoutes(), s.explainRoutes(), s.shadowRoutes(), []admin.Route{s.pinsRoute(), s.statusRoute()})
}

// operators are those of the configuration in force.
func (s *Server) operators() (out []admin.Operator) {
	b := s.now()
	if b == nil {
		return nil
	}
	for _, o := range b.config.Proto.Admin.Operators {
		digest, err := identity.ParseDigest(strings.TrimPrefix(o.Digest, "sha256:"))
		if err != nil { // the configuration was checked
			continue
		}
		out = append(out, admin.Operator{ID: o.Id, Digest: digest, May: o.May})
	}
	return out
}
