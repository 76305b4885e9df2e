package identity

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// credentialWords are what a name holds that is one of a credential, once all but letters and digits is gone.
var credentialWords = []string{
	"password", "passwd", "passphrase", "passcode", "pwd", "secret", "token", "apikey", "accesskey", "privatekey", "signingkey", "encryptionkey",
	"authorization", "cookie", "credential", "bearer", "sessionid", "connectionstring", "signature",
}

// credentialNames are names that are one as a whole: they stand in harmless words, too.
var credentialNames = []string{"pass", "pin", "otp", "mfa", "totp", "auth", "jwt", "creds", "cvv", "cvc"}

// credentialText is what credentials look like, those within a URL or a header line among them.
var credentialText = regexp.MustCompile(`(?i)\b(?:bearer|basic)\s+[a-z0-9._~+/=-]{6,}|\beyJ[a-z0-9_-]{8,}\.[a-z0-9_.-]+|` +
	`-----BEGIN [A-Z ]*PRIVATE KEY(?:-----[A-Za-z0-9+/=\s]*)?|` +
	`\b(?:gh[opsur]_|github_pat_|glpat-|sk-|sk_|xox[abeoprs]-|AKIA|mcpgw_)[a-z0-9_-]{8,}|://[^/\s:@]*:[^/\s@]+@`)

// NamesCredential reports whether a name, of an argument, a claim or a variable, is that of a credential; case and punctuation do not
// count. It guesses, to keep credentials from the eyes of whoever looks at calls, and must not decide more than what is shown.
func NamesCredential(name string) bool {
	plain := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
	return slices.Contains(credentialNames, plain) || slices.ContainsFunc(credentialWords, func(w string) bool { return strings.Contains(plain, w) })
}

// HoldsCredential reports whether a text is a credential or holds one, whatever it is called. It guesses, as [NamesCredential] does.
func HoldsCredential(text string) bool { return credentialText.MatchString(text) }

// MaskCredentials puts three asterisks in place of what [HoldsCredential] finds in a text, and leaves the rest of it.
func MaskCredentials(text string) string {
	return credentialText.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "://") {
			return "://***@"
		}
		return "***"
	})
}
