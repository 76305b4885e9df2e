package policy

import (
	"errors"
	"testing"
)

func TestPublic(t *testing.T) {
	secret := errors.New("eval_conflict_error: /etc/policy.rego:3")
	for _, tc := range []struct {
		name   string
		ruling Ruling
		want   string
	}{
		{"nothing said", Ruling{Effect: Deny}, "no rule allows this call"},
		{"one reason", Ruling{Effect: Deny, Reasons: []Reason{{"deny", "readers do not push"}}}, "readers do not push"},
		{"two reasons", Ruling{Effect: Deny, Reasons: []Reason{{"deny", "a"}, {"deny", "b"}}}, "a; b"},
		{"an internal fault stays internal", Ruling{Effect: Deny, Err: secret}, "the policy could not be evaluated"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.ruling.Public(); got != tc.want {
				t.Errorf("Public() = %q, want %q", got, tc.want)
			}
		})
	}
}
