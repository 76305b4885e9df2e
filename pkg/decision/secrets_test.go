package decision

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

func TestHideSecrets(t *testing.T) {
	for _, name := range []string{"password", "Password", "db_password", "api-key", "API_KEY", "x-api-key", "accessToken", "client_secret", "Authorization", "cookie", "privateKey", "credentials", "pwd", "pin", "session", "DB_PWD", "passcode", "sessionId", "connectionString", "signing-key", "totp", "jwt"} {
		q := `{"arguments":{"deep":[{"` + name + `":{"value":"hunter2"}}],"n":9007199254740993},"subject":{"claims":{"` + name + `":"hunter2"}}}`
		got := string(hideSecrets([]byte(q), 1<<20))
		if strings.Contains(got, "hunter2") || !strings.Contains(got, "9007199254740993") || !json.Valid([]byte(got)) {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, value := range []string{
		"Bearer abcdefghij", "Basic dXNlcjpwYXNzd29yZA==", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.x", "-----BEGIN PRIVATE KEY-----", "sk-abcdefghijklmnop", "ghp_abcdefghijklmnop",
		"AKIAABCDEFGHIJKLMNOP", "github_pat_abcdefghij", "ghs_abcdefghijkl", "xoxe-abcdefghijk", "redis://:hunter2@cache/0", "https://user:hunter2@example.com/",
	} {
		b, _ := json.Marshal(map[string]any{"arguments": map[string]any{"text": "take " + value}})
		if got := string(hideSecrets(b, 1<<20)); got != `{"arguments":{"text":"[hidden]"}}` {
			t.Errorf("%s: %s", value, got)
		}
	}
	plain := `{"subject":{"id":"ann","roles":["pinner"],"claims":{"iss":"x"}},"resource":{"name":"reset_password","tags":["secret"]},"arguments":{"spinner":1.0,"path":"/a\u00e9","list":[null,true,-1e3]},"context":{"session":{"labels":["x"]}}}`
	if got := string(hideSecrets([]byte(plain), 1<<20)); got != strings.Replace(plain, `\u00e9`, "é", 1) {
		t.Errorf("changed what is no secret:\n%s\n%s", got, plain)
	}
	if got := string(hideSecrets([]byte(plain), 10)); strings.Contains(got, "spinner") || !strings.Contains(got, "ann") {
		t.Errorf("too long: %s", got)
	}
	ruling := result{Effect: policy.Allow, Rewrite: []change{
		{Path: "/login/password", Value: []byte(`"hunter2"`)}, {Path: "/a", Value: []byte(`{"token":"hunter2","n":1}`)}, {Path: "/token"}, {Path: "/b", Value: []byte(`5`)},
	}}
	want := `{"effect":"allow","reasons":null,"rewrite":[{"path":"/login/password","value":"[hidden]"},{"path":"/a","value":{"token":"[hidden]","n":1}},{"path":"/token"},{"path":"/b","value":5}]}`
	if got := string(ruling.shown()); got != want {
		t.Errorf("a ruling: %s", got)
	}
	if string(ruling.Rewrite[0].Value) != `"hunter2"` {
		t.Error("the ruling itself was changed")
	}
	if got := string(hideSecrets([]byte(`{"arguments":{"a":`), 10)); got != hidden {
		t.Errorf("no JSON: %s", got)
	}
}
