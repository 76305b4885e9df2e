package catalog

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"
)

// The findings, as policies read them. They are facts, not verdicts: a policy says what follows.
const (
	// ConfusableName: the name looks like that of another tool or prompt, or a word of name or title mixes scripts.
	ConfusableName = "confusable_name"
	// HiddenText: words that a person who looks at the item does not get to see: comments and invisible elements of HTML or Markdown,
	// text behind a very long run of white space, or so much of it that it is not looked at here either.
	HiddenText = "hidden_text"
	// InvisibleCharacters: characters without a shape of their own, where no script or emoji needs them.
	InvisibleCharacters = "invisible_characters"
	// ModelDirectedText: words that try to govern the model instead of describing the item.
	ModelDirectedText = "model_directed_text"
)

// Findings lists every finding there is, in order.
var Findings = []string{ConfusableName, HiddenText, InvisibleCharacters, ModelDirectedText}

// findings looks at the item by itself: every text of its definition, member names too, but for what no model is shown (see unpinned).
func (i *Item) findings(left *patience) (out []string) {
	var hidden, invisible, directed bool
	each := func(s string) {
		hidden = hidden || hides(s)
		invisible = invisible || unseen(s)
		directed = directed || left.directs(s)
		hidden = hidden || *left < 0
	}
	texts(i.Definition, each)
	if mixed(i.Name) || mixed(i.Title) {
		out = append(out, ConfusableName)
	}
	for _, f := range []struct {
		is   bool
		name string
	}{{hidden, HiddenText}, {invisible, InvisibleCharacters}, {directed, ModelDirectedText}} {
		if f.is {
			out = append(out, f.name)
		}
	}
	return out
}

// texts yields every text of a definition that has been read strictly, member names below its own too, but for what is unpinned.
func texts(definition []byte, each func(string)) {
	d := jsontext.NewDecoder(bytes.NewReader(definition))
	if _, err := d.ReadToken(); err != nil {
		return
	}
	for d.PeekKind() == jsontext.KindString {
		name, err := d.ReadToken()
		if err != nil {
			return
		}
		if unpinned[name.String()] {
			if d.SkipValue() != nil {
				return
			}
			continue
		}
		for first := true; first || d.StackDepth() > 1; first = false {
			t, err := d.ReadToken()
			if err != nil {
				return
			}
			if t.Kind() == jsontext.KindString {
				each(t.String())
			}
		}
	}
}

// Invisible characters.

// blank has no shape: format characters, fillers and variation selectors.
var blank = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x00AD, 0x00AD, 1},
		{0x034F, 0x034F, 1},
		{0x061C, 0x061C, 1},
		{0x115F, 0x1160, 1},
		{0x17B4, 0x17B5, 1},
		{0x180B, 0x180F, 1},
		{0x200B, 0x200F, 1},
		{0x202A, 0x202E, 1},
		{0x2060, 0x206F, 1},
		{0x2800, 0x2800, 1},
		{0x3164, 0x3164, 1},
		{0xFE00, 0xFE0F, 1},
		{0xFEFF, 0xFEFF, 1},
		{0xFFA0, 0xFFA0, 1},
		{0xFFF0, 0xFFFB, 1},
	},
	R32: []unicode.Range32{{0x13430, 0x13455, 1}, {0x1BCA0, 0x1BCA3, 1}, {0x1D173, 0x1D17A, 1}, {0xE0000, 0xE0FFF, 1}},
}

const (
	zwnj, zwj     = 0x200C, 0x200D
	lrm, rlm, alm = 0x200E, 0x200F, 0x061C
	textStyle     = 0xFE0E
	emojiStyle    = 0xFE0F
	blackFlag     = 0x1F3F4
	tagEnd        = 0xE007F
)

// joining are the scripts that are written with joiners.
var joining = []*unicode.RangeTable{
	unicode.Arabic, unicode.Syriac, unicode.Mongolian, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati, unicode.Oriya,
	unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala, unicode.Khmer, unicode.Myanmar,
}

var rightToLeft = []*unicode.RangeTable{unicode.Arabic, unicode.Hebrew, unicode.Syriac, unicode.Thaana, unicode.Nko}

// flags are the emoji that are spelled with tag characters: England, Scotland, Wales.
var flags = []string{"gbeng", "gbsct", "gbwls"}

// unseen reports characters that cannot be seen and that nothing needs: neither a script nor an emoji.
func unseen(s string) bool {
	if ascii(s) {
		return strings.ContainsFunc(s, unwritten)
	}
	r := []rune(s)
	for i := 0; i < len(r); i++ {
		switch c := r[i]; {
		case unwritten(c):
			return true
		case !unicode.Is(blank, c):
		case i > 0 && (c == emojiStyle || c == textStyle) && pictures(r[i-1]): // one, right after what it styles
		case i > 0 && i+1 < len(r) && c == zwj && joinsPictures(r[i-1], r[i+1]):
		case i > 0 && (c == zwj || c == zwnj) && unicode.In(r[i-1], joining...):
		case (c == lrm || c == rlm || c == alm) && slices.ContainsFunc(r, func(c rune) bool { return unicode.In(c, rightToLeft...) }):
		case i > 0 && r[i-1] == blackFlag && flag(r[i:]) > 0:
			i += flag(r[i:]) - 1
		default:
			return true
		}
	}
	return false
}

// Unseen reports a character without a shape of its own, or a control character other than tab and line breaks: what must be spelled out
// before people read a text. It is not a finding by itself.
func Unseen(c rune) bool { return unwritten(c) || unicode.Is(blank, c) }

// unwritten is a control character that no text needs; escape sequences of terminals begin with one.
func unwritten(c rune) bool {
	return c < 0x20 && c != '\n' && c != '\t' && c != '\r' || c >= 0x7f && c <= 0x9f
}

// pictures reports whether a style may follow: symbols, and what keycaps are made of.
func pictures(c rune) bool {
	return unicode.In(c, unicode.So, unicode.Sm, unicode.Sk, unicode.Po) || c >= '0' && c <= '9' || c == '\u3030' || c == '\u303d'
}

func joinsPictures(before, after rune) bool {
	return (unicode.In(before, unicode.So, unicode.Sk) || before == emojiStyle) && unicode.In(after, unicode.So, unicode.Sm)
}

// flag is how many tag characters spell one of the flags; 0 if none does.
func flag(r []rune) int {
	for _, f := range flags {
		if len(r) <= len(f) || r[len(f)] != tagEnd {
			continue
		}
		same := true
		for i := range len(f) {
			same = same && r[i] == 0xE0000+rune(f[i])
		}
		if same {
			return len(f) + 1
		}
	}
	return 0
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Hidden text.

const (
	longSpace  = 100 // characters of white space in a row, with text after them
	manyBreaks = 12  // line breaks in such a run
)

var invisibleMarkup = regexp.MustCompile(`(?is)<!--.*\S.*(-->|$)|<[a-z][^<>]*\b(display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0|opacity\s*:\s*0\s*[;"'])[^<>]*>|(?m:^\s*\[[^\]]*\]:\s*(#|<>)\s+["'(])`)

// hides reports text that a person does not see.
func hides(s string) bool {
	if (strings.Contains(s, "<") || strings.Contains(s, "]:")) && invisibleMarkup.MatchString(s) {
		return true
	}
	run, breaks := 0, 0
	for _, c := range s {
		if unicode.IsSpace(c) {
			run++
			if c == '\n' {
				breaks++
			}
			continue
		}
		if run >= longSpace || breaks >= manyBreaks {
			return true
		}
		run, breaks = 0, 0
	}
	return false
}

// Text aimed at models.

// A directive is a way of speaking to the model that no description of an item needs.
type directive struct {
	why  string
	need []string // the text has one of these; looking for them is much quicker than the expression
	is   *regexp.Regexp
}

func speaks(why, need, expression string) directive {
	return directive{why, strings.Split(need, "|"), regexp.MustCompile(expression)}
}

// directives are matched against text in lower case, without invisible characters, look-alike letters put back, runs of white space as
// one blank.
var directives = []directive{
	speaks("takes earlier instructions back", "ignor|disregard|forget|overrid|bypass",
		`\b(ignor(e|ing)|disregard(ing)?|forget(ting)?|overrid(e|ing)|bypass(ing)?) ([\w']+ ){0,3}(previous|prior|above|earlier|preceding|other|existing|original|system|your) ([\w']+ ){0,3}(instructions?|prompts?|guidelines?|directives?|rules)\b`),
	speaks("takes all instructions back", "ignor|disregard|forget",
		`\b(ignore|disregard|forget) (all|any|every|everything) ([\w']+ ){0,2}(instructions?|prompts?|guidelines?|directives?|you (know|were told|have been told))\b`),
	speaks("keeps something from the user", "tell|inform|mention|reveal|notify|alert|disclose|warn",
		`\b(do not|don'?t|never|must not|should not|avoid|without) ([\w']+ ){0,2}(tell(ing)?|inform(ing)?|mention(ing)?|reveal(ing)?|notify(ing)?|alert(ing)?|disclos(e|ing)|warn(ing)?) ([\w']+ ){0,5}(users?|humans?|person|operator|anyone|anybody)\b`),
	speaks("keeps something from the user", "user|human|operator",
		`\b((hide|hidden|conceal|keep|kept) ([\w']+ ){0,4}(secret |hidden )?from (the |your |any )?(users?|humans?|operator)|(users?|humans?|operator) (must|should|need|does|do) (not|never) (know|notice|be (aware|told|informed)|find out))\b`),
	speaks("puts itself before every other tool", "before|prior to",
		`\b(before|prior to) (you )?((use|using|call|calling|invoke|invoking|run|running|execute|executing) )?(any|every|each|all)( of the)?( other)? (tools?|functions?|tool calls?)\b`),
	speaks("speaks of other tools' use", "other tool|another tool",
		`\b(when|whenever|if|every time|each time|after) (you )?(use|using|call|calling|invoke|invoking)? ?(any |an)other tools?\b`),
	speaks("marks itself as an instruction", "<|[",
		`<\s*/?\s*(important|system|system[-_ ]?prompt|instructions?|critical|secret[-_ ]instructions?|assistant)\s*/?>|<\|[a-z_]+\|>|<<\s*/?sys\s*>>|\[/?inst\]`),
	speaks("asks for the system prompt", "prompt|instructions",
		`\b(reveal|print|output|repeat|send|pass|leak|show|include|return|provide|copy|read|quote)\w* ([\w']+ ){0,4}((the|your|its) )?(system prompt|developer (prompt|message)|(hidden|initial|original|internal) (prompt|instructions))\b|\byour system prompt\b`),
	speaks("reads secrets", ".ssh|.aws|.gnupg|.kube|.netrc|id_rsa|id_ed25519|/etc/passwd|/etc/shadow|mcp.json|desktop_config.json|.env",
		`\b(read|open|cat|load|include|send|pass|access|fetch|get|copy|attach|upload|contents? of|look (at|into))\w* ([^ ]+ ){0,6}[^ ]*(\.ssh(/|\b)|\.aws/|\.gnupg|\.kube/|\.netrc|id_rsa|id_ed25519|/etc/(passwd|shadow)|mcp\.json|claude_desktop_config\.json|/\.env\b)`),
	speaks("carries a conversation away", "conversation|chat|transcript|previous messages",
		`\b(send|forward|post|upload|exfiltrate|transmit|email|e-mail|bcc|copy|leak)\w* ([\w'-]+ ){0,5}(conversation|chat( history| log)?|transcripts?|previous messages) ([\w'-]+ ){0,4}(to|via) \S`),
	speaks("carries contents away in an argument", "content",
		`\b(pass|put|insert|append|provide|supply|give|place) (its|the|their|this file'?s|that file'?s|all|full|entire) (full |entire )?contents? (as|in|into) (the )?['"`+"`"+`‘“]?\w+['"`+"`"+`’”]?( (parameter|argument|field))?\b`),
	speaks("steals", "exfiltrat|api key|credential|password|private key|access token|secret",
		`\bexfiltrat(e|es|ing)\b|\b(send|forward|upload|transmit|email|leak)\w* ([\w'-]+ ){0,3}(all|any|every|the user'?s|users'?|their|your) ([\w'-]+ ){0,3}(api keys?|credentials|passwords?|private keys?|access tokens?|secrets) ([\w'-]+ ){0,4}to \S`),
	speaks("gives the model another part to play", "you are now|developer mode|jailbreak|act as|pretend",
		`\byou are now (a|an|in|the|no longer)\b|\bdeveloper mode\b|\bjailbr(ea|o)k|\b(act as|pretend to be|pretend you are) (a |an |the )?(unrestricted|uncensored|system|human|user)\b`),
	speaks("addresses the model", "attention|note to|notice to|message to|message for|instruction|dear |important for|as an ",
		`\b(attention|note to|notice to|message (to|for)|instructions? (to|for)|dear|important for) (all |the |any )?(ai|llm|ais|llms|language model|model|assistant|ai agent|agent|claude|chatgpt|gpt)s?\b[^a-z]|\bas an (ai|llm|large language)\b`),
	speaks("calls itself an order", "instruction|directive|new rule",
		`\b(this is|these are) (a |an |your )?(new |mandatory |system |critical |secret )+(instruction|directive|order|rule)s?\b|\bnew (system )?(instructions|directives) ?:`),
	speaks("takes the human out", "confirm|permission|approval|consent",
		`\b(do not|don'?t|never) (ask|request|wait|seek|require) ([\w']+ ){0,4}(confirmation|permission|approval|consent)\b`),
	speaks("goes on in silence", "silently|secretly|covertly|quietly",
		`\b(silently|secretly|covertly|quietly) (call|invoke|use|run|send|read|forward|copy|add|include|upload|execute)\b`),
}

// patience is how many bytes of one server's list may be matched against directives: a hostile server makes every text match at length.
type patience int

const fullPatience patience = 64 << 20

// directs reports text that is aimed at a model, as long as there is patience.
func (left *patience) directs(s string) bool {
	if len(s) < 8 {
		return false
	}
	s = plain(s)
	for i := range directives {
		d := &directives[i]
		if !slices.ContainsFunc(d.need, func(word string) bool { return strings.Contains(s, word) }) {
			continue
		}
		if *left -= patience(len(s)); *left < 0 || d.is.MatchString(s) {
			return *left >= 0
		}
	}
	return false
}

// plain is text as directives are written: see there.
func plain(s string) string {
	if !ascii(s) {
		s = norm.NFKC.String(strings.Map(func(c rune) rune {
			if Unseen(c) {
				return -1
			}
			return c
		}, s))
	}
	var b strings.Builder
	b.Grow(len(s))
	space := false
	for _, c := range s {
		if unicode.IsSpace(c) {
			space = b.Len() > 0
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		if c >= utf8.RuneSelf {
			c = unicode.ToLower(latin(c))
			if c == '’' {
				c = '\''
			}
		} else if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}
