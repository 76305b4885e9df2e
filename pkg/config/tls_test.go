package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair writes a self-signed certificate and its key.
func pair(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: cert},
		name + ".key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "a")
	pair(t, dir, "b")
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	const text = `
listeners:
  - address: 127.0.0.1:8443
    anonymous: {}
    tls: {cert_file: a.pem, key_file: KEY}
servers:
  - name: s
    http:
      url: https://s.example/mcp
      tls: {ca_file: a.pem, client_cert_file: b.pem, client_key_file: b.key}
policy: {directory: policies}
`
	path := filepath.Join(dir, "mcpgw.yaml")
	c, err := Parse(path, []byte(strings.ReplaceAll(text, "KEY", "a.key")))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Files, "\n"); strings.Count(got, dir) != 6 { // the file itself, policies, two certificates, two keys
		t.Errorf("watched files:\n%s", got)
	}
	_, err = Parse(path, []byte(strings.ReplaceAll(text, "KEY", "b.key")))
	if err == nil || !strings.Contains(err.Error(), "mcpgw.yaml:5:22: listeners[0].tls.cert_file: certificate and key do not make a pair") {
		t.Errorf("another's key: %v", err)
	}
}
