package gateway

import (
	"errors"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// TestIdentified: a refusal that policy made names its decision, whatever else its data says; other refusals do not.
func TestIdentified(t *testing.T) {
	ruled, failed := &policy.Ruling{Effect: policy.Deny}, &policy.Ruling{Effect: policy.Deny, Err: errors.New("x")}
	for _, tc := range []struct {
		name   string
		ruling *policy.Ruling
		fault  *fault.Error
		want   string
	}{
		{"denied", ruled, fault.New(fault.Denied, "no").With(denial(ruled)), `{"decision":"deny","reasons":[],"decision_id":"ID"}`},
		{"denied without data", ruled, fault.New(fault.Denied, "no"), `{"decision_id":"ID"}`},
		{"empty data", ruled, fault.New(fault.Denied, "no").With([]byte(`{}`)), `{"decision_id":"ID"}`},
		{"policy failed", failed, fault.New(fault.Internal, "policy could not rule"), `{"decision_id":"ID"}`},
		{"allowed, and refused for its arguments", ruled, fault.New(fault.BadArguments, "n"), ``},
		{"refused before policy was asked", nil, fault.New(fault.Denied, "no"), ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := &Exchange{Record: Record{DecisionID: "ID", Ruling: tc.ruling}}
			before := string(tc.fault.Data)
			if got := x.identified(tc.fault); string(got.Data) != tc.want || got.Kind != tc.fault.Kind || got.Message != tc.fault.Message {
				t.Errorf("got %+v, want %s", got, tc.want)
			}
			if string(tc.fault.Data) != before {
				t.Error("the fault was changed")
			}
		})
	}
}
