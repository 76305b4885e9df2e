package catalog

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// looks is, for each Latin letter, the letters of other scripts and alphabets that look like it: Cyrillic, Greek, Armenian, Cherokee, Lisu,
// Coptic, phonetic. What compatibility decomposition maps (Unicode, UAX #15) is not in it: full width and mathematical letters, ligatures.
// The table is small and made for names: letters alone, the small ones first.
var looks = map[rune]string{
	'a': "\u0251\u03b1\u0430\u13aa\u1d00",
	'A': "\u0391\u0410\ua4ee",
	'b': "\u0253\u0299\u03b2\u0432\u044c\u13cf\u13f4",
	'B': "\u0181\u0392\u0412\ua4d0",
	'c': "\u0188\u03f2\u0441\u13df\u1d04\u2ca5",
	'C': "\u0187\u03f9\u0421\ua4da",
	'd': "\u0111\u0257\u0501\u13e7\u1d05",
	'D': "\u0110\u0189\u018a\u13a0\ua4d3",
	'e': "\u0259\u025b\u03b5\u0435\u0454\u1d07",
	'E': "\u0395\u0415\u13ac\ua4f0",
	'f': "\u0192\u03dd\u0584",
	'F': "\u03dc\ua4dd",
	'g': "\u0260\u0261\u0262\u050d\u0581",
	'G': "\u050c\u13c0\ua4d6",
	'h': "\u0127\u029c\u043d\u04bb\u0570\u13c2",
	'H': "\u0126\u0397\u041d\u04ba\u13bb\ua4e7",
	'i': "\u0131\u0268\u0269\u026a\u03b9\u0456\u13a5",
	'I': "\u0399\u0406\ua4f2",
	'j': "\u03f3\u0458\u0575\u1d0a",
	'J': "\u037f\u0408\u13ab\ua4d9",
	'k': "\u0138\u0199\u03ba\u043a\u1d0b\u2c95",
	'K': "\u0198\u039a\u041a\u13e6\ua4d7",
	'l': "\u0142\u026b\u026d\u029f\u04c0\u04cf\u13de\u2113",
	'L': "\u0141\u053c\ua4e1",
	'm': "\u0271\u043c\u1d0d",
	'M': "\u039c\u041c\u13b7\ua4df",
	'n': "\u014b\u0272\u0274\u03b7\u043f\u0578\u057c",
	'N': "\u039d\ua4e0",
	'o': "\u00f8\u0254\u0275\u03bf\u03c3\u043e\u0585\u0d20\u101d\u1d0f\u2c9f",
	'O': "\u00d8\u039f\u041e\u0555\ua4f3",
	'p': "\u01a5\u03c1\u0440\u13e2\u1d18\u2ca3",
	'P': "\u01a4\u03a1\u0420\ua4d1",
	'q': "\u051b\u0563\u0566",
	'Q': "\u051a",
	'r': "\u027c\u0280\u0433\u0491\u13a1\u1d26",
	'R': "\ua4e3",
	's': "\u017f\u01bd\u0282\u0455\u13da\ua731",
	'S': "\u0405\u054f\ua4e2",
	't': "\u0167\u01ad\u03c4\u0442\u1d1b\u2ca7",
	'T': "\u0166\u03a4\u0422\u13a2\ua4d4",
	'u': "\u028b\u03bc\u03c5\u0446\u057d\u1d1c",
	'U': "\u054d\ua4f4",
	'v': "\u03bd\u0475\u13d9\u1d20",
	'V': "\u0474\ua4e6",
	'w': "\u026f\u03c9\u0448\u051d\u0561\u1d21",
	'W': "\u051c\u13d4\ua4ea",
	'x': "\u03c7\u0445\u2cad",
	'X': "\u03a7\u0425\ua4eb",
	'y': "\u01b4\u028f\u03b3\u0443\u04af\u2ca9",
	'Y': "\u03a5\u0423\u04ae\u13a9\ua4ec",
	'z': "\u01b6\u0225\u0290\u1d22",
	'Z': "\u0396\u13c3\ua4dc",
}

// twins is looks, by what looks like a Latin letter.
var twins = func() map[rune]rune {
	m := map[rune]rune{}
	for letter, others := range looks {
		for _, c := range others {
			m[c] = letter
		}
	}
	return m
}()

// latin is the Latin letter that c looks like, or c.
func latin(c rune) rune {
	if l, ok := twins[c]; ok {
		return l
	}
	return c
}

// skeleton is equal for names that look alike (the idea is that of Unicode, UTS #39): letters of other scripts as Latin, case and marks put away, and what an eye reads over
// (l, I and 1; O and 0; rn and m; vv and w; cl and d) as one.
func skeleton(name string) string {
	if !ascii(name) {
		name = strings.Map(func(c rune) rune {
			if unicode.Is(unicode.Mn, c) || unicode.Is(blank, c) {
				return -1
			}
			return latin(c)
		}, norm.NFKD.String(name))
	}
	b := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch c {
		case 'I', '1', '|':
			c = 'l'
		case 'O', '0':
			c = 'o'
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if n := len(b); n > 0 {
			switch {
			case b[n-1] == 'r' && c == 'n':
				b[n-1] = 'm'
				continue
			case b[n-1] == 'v' && c == 'v':
				b[n-1] = 'w'
				continue
			case b[n-1] == 'c' && c == 'l':
				b[n-1] = 'd'
				continue
			}
		}
		b = append(b, c)
	}
	return string(b)
}

// together are scripts that are written in one word.
var together = [][]string{
	{"Latin", "Han", "Hiragana", "Katakana"},
	{"Latin", "Han", "Hangul"},
	{"Latin", "Han", "Bopomofo"},
}

// mixed reports whether one word of a text has letters of scripts that are not written together.
func mixed(s string) bool {
	if ascii(s) {
		return false
	}
	for _, word := range strings.FieldsFunc(s, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.Is(unicode.M, c) }) {
		var scripts []string
		for _, c := range word {
			if name := scriptOf(c); name != "" && !slices.Contains(scripts, name) {
				scripts = append(scripts, name)
			}
		}
		if len(scripts) < 2 || slices.ContainsFunc(together, func(set []string) bool {
			return !slices.ContainsFunc(scripts, func(s string) bool { return !slices.Contains(set, s) })
		}) {
			continue
		}
		return true
	}
	return false
}

// units are Greek letters that stand beside Latin ones in the language of engineers.
const units = "μΩΔΣπλ"

// scriptOf is a letter's script; empty for what belongs to every script.
func scriptOf(c rune) string {
	if c < utf8.RuneSelf {
		return "Latin" // words are made of letters
	}
	if unicode.In(c, unicode.Common, unicode.Inherited) || strings.ContainsRune(units, c) {
		return ""
	}
	for name, table := range unicode.Scripts {
		if unicode.Is(table, c) {
			return name
		}
	}
	return "Unknown"
}
