package identity

import "testing"

func TestNamesCredential(t *testing.T) {
	for _, name := range []string{
		"password", "Passwd", "db_password", "client-secret", "SECRET", "token", "accessToken", "x-api-key", "apikey", "Authorization", "set-cookie", "private_key",
		"aws_credentials", "pin", "pwd", "JSESSIONID", "X-Hub-Signature", "to\u212aen",
	} {
		if !NamesCredential(name) {
			t.Errorf("%s is no name of a credential", name)
		}
	}
	for _, name := range []string{"", "max_count", "author", "path", "repo_path", "keyboard", "message", "spin", "spinner", "amount", "session", "compass"} {
		if NamesCredential(name) {
			t.Errorf("%s is a name of a credential", name)
		}
	}
}

func TestHoldsCredential(t *testing.T) {
	for _, text := range []string{
		"take Bearer abcdefghij", "Basic dXNlcjpwYXNzd29yZA==", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.x", "-----BEGIN PRIVATE KEY-----", "-----BEGIN OPENSSH PRIVATE KEY-----",
		"sk-abcdefghijklmnop", "ghp_abcdefghijklmnop", "AKIAABCDEFGHIJKLMNOP", "https://user:hunter2@example.com/",
	} {
		if !HoldsCredential(text) {
			t.Errorf("%s holds no credential", text)
		}
	}
	for _, text := range []string{"", "the bearer of bad news", "a basic idea", "https://example.com:8443/a@b", "-----BEGIN CERTIFICATE-----", "task-abcdefghijklmnop"} {
		if HoldsCredential(text) {
			t.Errorf("%s holds a credential", text)
		}
	}
}
