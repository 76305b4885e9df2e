package server

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// revised is a policy of which the revision alone is looked at.
type revised struct {
	policy.Engine
	revision string
}

func (r revised) Revision() string { return r.revision }

// TestApprovalRoutes: who may see and answer questions, and what is said to whom else.
func TestApprovalRoutes(t *testing.T) {
	var log bytes.Buffer
	g, err := gateway.New(gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{gateway: g, approvals: approval.New(nil), log: slog.New(slog.NewTextHandler(&log, nil))}
	h := admin.Handler(admin.Options{
		Ready: func() error { return nil }, Metrics: http.NotFoundHandler(), Catalog: func() any { return nil }, Routes: s.approvalRoutes(),
		Operators: func() []admin.Operator {
			return []admin.Operator{{ID: "olga", Digest: identity.DigestOf("olga's"), May: []string{"approve"}}, {ID: "ede", Digest: identity.DigestOf("ede's"), May: []string{"explain", "policy"}}}
		},
	})
	ask := func(method, path, key, body string, headers ...string) (int, string) {
		r := httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
		if key != "" {
			r.Header.Set("authorization", "Bearer "+key)
		}
		for n := 0; n < len(headers); n += 2 {
			r.Header.Set(headers[n], headers[n+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	if code, said := ask("POST", "/approvals/X", "olga's", `{"deny":false}`); code != http.StatusServiceUnavailable {
		t.Errorf("while it starts: %d %s", code, said)
	}
	g.Swap(func(gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{Settings: &gateway.Settings{}, Policy: revised{revision: "r1"}, Catalog: catalog.Build(nil, nil, nil)}
	})
	b := approval.Binding{Principal: "alice", Revision: "r1"}
	q, _, err := s.approvals.Request(b, approval.About{Principal: "alice", Server: "git", Item: "push", Reasons: []string{"sure?"}, Decision: "D1"}, approval.Limits{Expiry: time.Minute, Max: 10, PerPrincipal: 10})
	if err != nil {
		t.Fatal(err)
	}
	old, _, err := s.approvals.Request(approval.Binding{Principal: "alice", Revision: "r0"}, approval.About{}, approval.Limits{Expiry: time.Minute, Max: 10, PerPrincipal: 10})
	if err != nil {
		t.Fatal(err)
	}
	at := "/approvals/" + q.ID
	for name, c := range map[string]struct {
		method, path, key, body string
		headers                 []string
		code                    int
		says                    string
	}{
		"without a key":           {"POST", at, "", `{}`, nil, 401, "needs an operator's key"},
		"a list without a key":    {"GET", "/approvals", "", ``, nil, 401, "needs an operator's key"},
		"a wrong key":             {"POST", at, "guessed", `{}`, nil, 401, "no operator has this key"},
		"another permission":      {"POST", at, "ede's", `{}`, nil, 403, "does not name approve"},
		"a page in a browser":     {"POST", at, "olga's", `{}`, []string{"origin", "http://localhost"}, 403, "browsers"},
		"by GET":                  {"GET", at, "olga's", ``, nil, 405, ""},
		"no body":                 {"POST", at, "olga's", ``, nil, 400, `say {"deny": false}`},
		"another body":            {"POST", at, "olga's", `{"approve":true}`, nil, 400, `say {"deny": false}`},
		"two bodies":              {"POST", at, "olga's", `{"deny":false}{"deny":true}`, nil, 400, `say {"deny": false}`},
		"an unknown id":           {"POST", "/approvals/ABCDEFGHIJKLMNOPQRSTUVWXYZ", "olga's", `{}`, nil, 404, "there is no such question"},
		"one of an older policy":  {"POST", "/approvals/" + old.ID, "olga's", `{}`, nil, 409, "have changed"},
		"an id in the wrong case": {"POST", strings.ToLower(at), "olga's", `{}`, nil, 404, "there is no such question"},
	} {
		code, said := ask(c.method, c.path, c.key, c.body, c.headers...)
		if code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%s: %d %q", name, code, said)
		}
	}
	if strings.Contains(log.String(), "confirmation") {
		t.Errorf("the log tells of an answer that was none: %s", &log)
	}
	var listed Approvals
	if code, said := ask("GET", "/approvals", "olga's", ``); code != 200 || json.Unmarshal([]byte(said), &listed) != nil || len(listed.Approvals) != 2 || listed.Approvals[0].State != approval.Pending {
		t.Errorf("the list: %d %s", code, said)
	}
	for body, want := range map[string]approval.State{`{"deny":true}`: approval.Denied, `{"deny":false}`: approval.Approved} {
		var got approval.Question
		if code, said := ask("POST", at, "olga's", body); code != 200 || json.Unmarshal([]byte(said), &got) != nil || got.State != want || got.By != "olga" || got.Item != "push" {
			t.Errorf("%s: %d %s", body, code, said)
		}
		if !strings.Contains(log.String(), "msg=confirmation approval_id="+q.ID+" approval="+string(want)+" operator=olga decision_id=D1 principal=alice server=git item=push") {
			t.Errorf("the log says %s", &log)
		}
	}
}

func TestWhoMayConfirm(t *testing.T) {
	for by, want := range map[string][2]bool{"user": {true, false}, "operator": {false, true}, "both": {true, true}, "": {true, true}} {
		pending, each := uint32(7), uint32(3)
		a := approvals(&configv1.Approvals{By: by, Expiry: durationpb.New(time.Minute), Pending: &pending, PendingPerPrincipal: &each})
		if a.User != want[0] || a.Operator != want[1] || a.Limits != (approval.Limits{Expiry: time.Minute, Max: 7, PerPrincipal: 3}) {
			t.Errorf("%q: %+v", by, a)
		}
	}
	if a := approvals(nil); a.Max != 0 {
		t.Errorf("nothing configured: %+v", a)
	}
}
