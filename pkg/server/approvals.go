package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// approvals is who may confirm calls, and how many may wait.
func approvals(a *configv1.Approvals) gateway.Approvals {
	return gateway.Approvals{
		User: a.GetBy() != "operator", Operator: a.GetBy() != "user",
		Limits: approval.Limits{Expiry: a.GetExpiry().AsDuration(), Max: int(a.GetPending()), PerPrincipal: int(a.GetPendingPerPrincipal())},
	}
}

// Approvals is what `mcpgw approvals` shows.
type Approvals struct {
	Now       time.Time           `json:"now"` // the gateway's clock
	Approvals []approval.Question `json:"approvals"`
}

// Approve is what `mcpgw approve` sends.
type Approve struct {
	Deny bool `json:"deny"`
}

// approvalRoutes is how operators see and answer questions.
func (s *Server) approvalRoutes() []admin.Route {
	return []admin.Route{
		{Pattern: "GET /approvals", May: "approve", Serve: func(w http.ResponseWriter, _ *http.Request, _ string) {
			admin.Write(w, Approvals{Now: time.Now(), Approvals: s.approvals.List()})
		}},
		{Pattern: "POST /approvals/{id}", May: "approve", Serve: s.approve},
	}
}

func (s *Server) approve(w http.ResponseWriter, r *http.Request, operator string) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	var said Approve
	if err := d.Decode(&said); err != nil || d.More() {
		admin.Fail(w, http.StatusBadRequest, `say {"deny": false} or {"deny": true}`)
		return
	}
	snapshot := s.gateway.Snapshot()
	if snapshot == nil {
		admin.Fail(w, http.StatusServiceUnavailable, "the gateway is starting")
		return
	}
	id := r.PathValue("id")
	q, err := s.approvals.Decide(id, operator, !said.Deny, snapshot.Policy.Revision())
	switch {
	case errors.Is(err, approval.ErrChanged):
		admin.Fail(w, http.StatusConflict, err.Error()+": no call can use an answer to it; the caller has to call again, and gets a new id")
		return
	case err != nil:
		admin.Fail(w, http.StatusNotFound, err.Error()+"; mcpgw approvals lists those that wait")
		return
	}
	s.log.Info("confirmation", "approval_id", q.ID, "approval", q.State, "operator", operator, "decision_id", q.Decision, "principal", q.Principal,
		"server", q.Server, "item", q.Item, "expires", q.Expires)
	admin.Write(w, q)
}
