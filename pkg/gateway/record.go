package gateway

import (
	"time"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Record is what one exchange's walk found, filled as facts appear and reported once by the rim. It holds no arguments, no claims
// and no credential. The strings it holds are the gateway's own or bounded copies.
type Record struct {
	DecisionID string
	Start      time.Time
	Listener   string
	Endpoint   string // the configured name
	Path       string
	HTTPMethod string
	Address    string
	Principal  *identity.Principal
	Session    bool
	Revision   mcp.Revision
	Method     string // a method the revision knows, else ""
	ID         string // the request's id as JSON text
	Kind       string // of the item
	Server     string
	Item       string // the origin's own name
	Public     string // the name the client used, where it resolved
	Lane       string // answer, direct or broker; or [LaneAuthorize]
	Ruling     *policy.Ruling
	Rewritten  int    // values and matches in the arguments that policy has changed
	Redactions int    // changes of the result that policy demands
	Approval   string // of a call that a human has to confirm: pending, approved, denied
	ApprovalID string // of the question to an operator
	ApprovedBy string // user or operator:ID
	Fault      *fault.Error
	Status     int    // of a reply
	Trace      string // params._meta.traceparent, for a link
	BodyBytes  int
	ReplyBytes int
	Snapshot   string
	Catalog    string
}

// Outcome is the record's one-word result: a fault's kind, or ok.
func (r *Record) Outcome() string {
	if r.Fault != nil {
		return r.Fault.Kind.String()
	}
	return "ok"
}
