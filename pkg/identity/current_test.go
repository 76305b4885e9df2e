package identity

import (
	"testing"
	"time"
)

func TestCurrent(t *testing.T) {
	make := func(o Options) *Authenticator {
		t.Helper()
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		return a
	}
	key := func(role string) APIKey {
		return APIKey{ID: "k", Digest: DigestOf("text"), Principal: Principal{Roles: []string{role}}}
	}
	old := make(Options{APIKeys: []APIKey{key("reader")}, Anonymous: &Principal{Roles: []string{"guest"}}})
	p, err := old.Authenticate(t.Context(), []string{"Bearer text"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if now := make(Options{APIKeys: []APIKey{key("writer")}}).Current(p); now == nil || now.Roles[0] != "writer" {
		t.Errorf("a key with another role: %+v", now)
	}
	if now := make(Options{}).Current(p); now != nil {
		t.Errorf("a key that is gone: %+v", now)
	}
	other := key("reader")
	other.Digest = DigestOf("another text")
	if now := make(Options{APIKeys: []APIKey{other}}).Current(p); now != nil {
		t.Errorf("another key of the same name: %+v", now)
	}
	guest, err := old.Authenticate(t.Context(), nil, nil)
	if err != nil || old.Current(guest) == nil || make(Options{}).Current(guest) != nil || old.Current(nil) != nil {
		t.Errorf("the anonymous: %+v, %v", guest, err)
	}
	now := time.Unix(1000, 0)
	issuer := make(Options{JWT: []JWTIssuer{{Issuer: "i", Audiences: []string{"a"}, KeysFile: "keys.json"}}, Now: func() time.Time { return now }})
	token := &Principal{Type: User, ID: "u", Issuer: "i", expires: now.Add(time.Second)}
	if issuer.Current(token) != token {
		t.Error("a token that is good")
	}
	now = now.Add(2 * time.Second)
	if issuer.Current(token) != nil || make(Options{}).Current(token) != nil {
		t.Error("an expired token, or one of an issuer that is gone, still counts")
	}
}
