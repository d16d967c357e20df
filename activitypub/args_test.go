package activitypub

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseArgs(t *testing.T) {
	tests := map[string]struct {
		args string
		want Delivery
	}{
		"as Mastodon writes it": {
			`["{\"a\":\"é \\u00e9\\n\"}",109,"https://a.test/inbox",{}]`,
			Delivery{Body: `{"a":"é \u00e9\n"}`, AccountID: 109, InboxURL: "https://a.test/inbox"},
		},
		"three arguments": {`["{}",1,"https://a.test/inbox"]`, Delivery{Body: "{}", AccountID: 1, InboxURL: "https://a.test/inbox"}},
		"the instance actor and all options": {
			`["{}",-99,"https://a.test/inbox",{"synchronize_followers":true,"bypass_availability":true,"sign_with":null}]`,
			Delivery{Body: "{}", AccountID: -99, InboxURL: "https://a.test/inbox", Options: DeliveryOptions{SynchronizeFollowers: true, BypassAvailability: true}},
		},
		"spaces where JSON allows them": {" [ \"{}\" , 1 ,\t\"https://a.test/inbox\" , { } ] ", Delivery{Body: "{}", AccountID: 1, InboxURL: "https://a.test/inbox"}},
		"an id beyond 2^53":             {`["{}",9007199254740993,"https://a.test/"]`, Delivery{Body: "{}", AccountID: 9007199254740993, InboxURL: "https://a.test/"}},
		"an id as a string":             {`["{}","42","https://a.test/"]`, Delivery{Body: "{}", AccountID: 42, InboxURL: "https://a.test/"}},
		"escaped slashes in the inbox":  {`["{}",1,"https:\/\/a.test\/inbox"]`, Delivery{Body: "{}", AccountID: 1, InboxURL: "https://a.test/inbox"}},
		"bytes that are not UTF-8 stay": {"[\"a\xffb\",1,\"https://a.test/\"]", Delivery{Body: "a\xffb", AccountID: 1, InboxURL: "https://a.test/"}},
		"a surrogate pair":              {`["\ud83d\ude00\ud83d",1,"https://a.test/"]`, Delivery{Body: "😀\ufffd", AccountID: 1, InboxURL: "https://a.test/"}},
		"an empty body":                 {`["",1,"https://a.test/"]`, Delivery{AccountID: 1, InboxURL: "https://a.test/"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseArgs(tt.args)
			if err != nil || got != tt.want {
				t.Errorf("ParseArgs(%s) = %+v, %v, want %+v", tt.args, got, err, tt.want)
			}
		})
	}
	d, err := ParseArgs(`["{}",1,"https://a.test/",{"sign_with":{"private_key":"PEM","uri":"u","local_fragment":"#f","type":"rsa"}}]`)
	if err != nil || d.Options.SignWith == nil || *d.Options.SignWith != (SigningKeySpec{"PEM", "u", "#f"}) {
		t.Errorf("sign_with as an object = %+v, %v", d.Options.SignWith, err)
	}
	d, err = ParseArgs(`["{}",1,"https://a.test/",{"sign_with":"a\nb"}]`)
	if err != nil || d.Options.SignWith == nil || d.Options.SignWith.PrivateKey != "a\nb" {
		t.Errorf("sign_with as a PEM = %+v, %v", d.Options.SignWith, err)
	}
}

func TestParseArgsErrors(t *testing.T) {
	tests := map[string]struct{ args, class string }{
		"nothing":                 {``, "JSON::ParserError"},
		"broken JSON":             {`["{}",1,"https://a.test/"`, "JSON::ParserError"},
		"an object":               {`{"a":1}`, "ArgumentError"},
		"no argument":             {`[]`, "ArgumentError"},
		"two arguments":           {`["{}",1]`, "ArgumentError"},
		"five arguments":          {`["{}",1,"https://a.test/",{},1]`, "ArgumentError"},
		"an inbox that is null":   {`["{}",1,null]`, "TypeError"},
		"an inbox that is a hash": {`["{}",1,{}]`, "TypeError"},
		"a body that is a hash":   {`[{},1,"https://a.test/"]`, "TypeError"},
		"an id that is null":      {`["{}",null,"https://a.test/"]`, "ActiveRecord::RecordNotFound"},
		"an id that is a word":    {`["{}","abc","https://a.test/"]`, "ActiveRecord::RecordNotFound"},
		"an id out of range":      {`["{}",99999999999999999999,"https://a.test/"]`, "ActiveRecord::RecordNotFound"},
		"options that are null":   {`["{}",1,"https://a.test/",null]`, "NoMethodError"},
		"options that are a list": {`["{}",1,"https://a.test/",[]]`, "NoMethodError"},
		"a key that is a number":  {`["{}",1,"https://a.test/",{"sign_with":5}]`, "TypeError"},
		"half an escape":          {`["\u12",1,"https://a.test/"]`, "JSON::ParserError"},
		"an escape of nothing":    {`["\x",1,"https://a.test/"]`, "JSON::ParserError"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseArgs(tt.args)
			e, ok := errors.AsType[*ArgumentError](err)
			if !ok || e.Class != tt.class {
				t.Errorf("ParseArgs(%s) = %v, want a %s", tt.args, err, tt.class)
			}
		})
	}
}

func TestDestination(t *testing.T) {
	tests := map[string]struct{ inbox, want string }{
		"plain":               {"https://a.test/inbox", "a.test"},
		"http":                {"http://a.test/inbox", "a.test"},
		"upper case":          {"HTTPS://A.Test/Inbox", "a.test"},
		"the default port":    {"https://a.test:443/inbox", "a.test"},
		"http's default port": {"http://a.test:80/inbox", "a.test"},
		"another port":        {"https://a.test:8443/inbox", "a.test:8443"},
		"a port with zeros":   {"https://a.test:08443/inbox", "a.test:8443"},
		"no path":             {"https://a.test", "a.test"},
		"a query at once":     {"https://a.test?x=1", "a.test"},
		"user and password":   {"https://u:p@a.test/inbox", "a.test"},
		"unicode":             {"https://bücher.test/inbox", "xn--bcher-kva.test"},
		"punycode":            {"https://xn--bcher-kva.test/inbox", "xn--bcher-kva.test"},
		"a dot at the end":    {"https://a.test./inbox", "a.test"},
		"IPv4":                {"https://192.0.2.1/inbox", "192.0.2.1"},
		"IPv6":                {"https://[2001:DB8::1]:8443/inbox", "[2001:db8::1]:8443"},
		"an underscore":       {"https://a_b.test/inbox", "a_b.test"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, tail := range []string{``, `,{}`, `,{"synchronize_followers":true,"x":"},\"]{["}`} {
				quoted, err := json.Marshal(tt.inbox)
				must(t, err)
				args := `["{\"to\":[\"https://evil.test/\"],\"a\":\"\\\\\"}",1,` + string(quoted) + tail + `]`
				got, err := Destination(args)
				if err != nil || got != tt.want {
					t.Errorf("Destination(%s) = %q, %v, want %q", args, got, err, tt.want)
				}
			}
		})
	}
	for name, tt := range map[string]string{
		"no arguments":      `[]`,
		"no JSON":           `[`,
		"a URL of nothing":  `["{}",1,""]`,
		"a bad port":        `["{}",1,"https://a.test:0/"]`,
		"a port too high":   `["{}",1,"https://a.test:65536/"]`,
		"an empty host":     `["{}",1,"https:///inbox"]`,
		"two dots":          `["{}",1,"https://a..test/inbox"]`,
		"a zone":            `["{}",1,"https://[fe80::1%25eth0]/inbox"]`,
		"a host of letters": `["{}",1,"https://` + strings.Repeat("a", 300) + `/"]`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Destination(tt)
			_, argument := errors.AsType[*ArgumentError](err)
			_, host := errors.AsType[*HostError](err)
			if !argument && !host {
				t.Errorf("Destination(%s) = %q, %v, want an error of ours", tt, got, err)
			}
		})
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add(`["{\"a\":1}",1,"https://a.test/inbox",{}]`)
	f.Add(`["\ud800",1,"https://a.test/inbox"]`)
	f.Add(`["",-1e3,"",{"sign_with":{}}]`)
	f.Fuzz(func(t *testing.T, args string) {
		d, err := ParseArgs(args)
		if err != nil {
			if _, ok := errors.AsType[*ArgumentError](err); !ok {
				t.Fatalf("ParseArgs(%q) = %v, which is no *ArgumentError", args, err)
			}
			return
		}
		// encoding/json is the judge for text that is JSON and UTF-8.
		var values []any
		if !utf8.ValidString(args) || json.Unmarshal([]byte(args), &values) != nil {
			return
		}
		if body, ok := values[0].(string); !ok || body != d.Body {
			t.Errorf("ParseArgs(%q): body %q, want %q", args, d.Body, values[0])
		}
		if inbox, ok := values[2].(string); !ok || inbox != d.InboxURL {
			t.Errorf("ParseArgs(%q): inbox %q, want %q", args, d.InboxURL, values[2])
		}
	})
}

func FuzzDestination(f *testing.F) {
	f.Add(`["{\"a\":1}",1,"https://a.test/inbox",{}]`)
	f.Add(`["{}",1,"https://A.test:443\/"]`)
	f.Add(`["{}",1,"https://a.test:8443",{"x":[{"y":"\"}"}]}]`)
	f.Fuzz(func(t *testing.T, args string) {
		dest, err := Destination(args)
		if err != nil {
			return
		}
		if dest == "" || strings.ToLower(dest) != dest || strings.ContainsAny(dest, "/?#@ \"\\") {
			t.Fatalf("Destination(%q) = %q", args, dest)
		}
		// Where the arguments are good, the short way and the long way agree.
		d, err := ParseArgs(args)
		if err != nil || !json.Valid([]byte(args)) {
			return
		}
		target, err := parseTarget(d.InboxURL)
		if err != nil || target.dest != dest {
			t.Errorf("Destination(%q) = %q, the long way says %v, %v", args, dest, target, err)
		}
	})
}

func TestTarget(t *testing.T) {
	tests := map[string]struct{ url, want, host string }{
		"plain":                     {"https://a.test/inbox", "https://a.test/inbox", "a.test"},
		"no path":                   {"https://a.test", "https://a.test/", "a.test"},
		"dot segments":              {"https://a.test/x/../y/./inbox", "https://a.test/y/inbox", "a.test"},
		"plus and comma in a query": {"https://a.test/inbox?a=b+c,d", "https://a.test/inbox?a=b+c,d", "a.test"},
		"a space in a query":        {"https://a.test/inbox?a=b c", "https://a.test/inbox?a=b%20c", "a.test"},
		"unicode":                   {"https://bücher.test/ä?ö", "https://xn--bcher-kva.test/%C3%A4?%C3%B6", "xn--bcher-kva.test"},
		"a fragment":                {"https://a.test/inbox#x", "https://a.test/inbox", "a.test"},
		"user and password":         {"https://u:p@a.test/inbox", "https://a.test/inbox", "a.test"},
		"an escaped slash":          {"https://a.test/a%2Fb/inbox", "https://a.test/a%2Fb/inbox", "a.test"},
		"the default port":          {"HTTPS://A.TEST:443/inbox", "https://a.test/inbox", "a.test"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseTarget(tt.url)
			if err != nil || got.url.String() != tt.want || got.host != tt.host {
				t.Errorf("parseTarget(%s) = %v, %v, want %s", tt.url, got, err, tt.want)
			}
		})
	}
}

// benchArgs is a job's args of about 4 kB, as a signed Create makes them.
func benchArgs() string {
	body := `{"@context":["https://www.w3.org/ns/activitystreams"],"id":"https://local.test/1","content":"` + strings.Repeat(`<p>\"word\" `, 200) + `"}`
	for len(body) < 3600 {
		body += `,"key":"value"`
	}
	quoted, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`[%s,109000000000000001,"https://mastodon.example/inbox",{"synchronize_followers":false}]`, quoted)
}

func BenchmarkDestination(b *testing.B) {
	args := benchArgs()
	b.ReportAllocs()
	b.SetBytes(int64(len(args)))
	for b.Loop() {
		if dest, err := Destination(args); err != nil || dest != "mastodon.example" {
			b.Fatal(dest, err)
		}
	}
}

func BenchmarkParseArgs(b *testing.B) {
	args := benchArgs()
	b.ReportAllocs()
	b.SetBytes(int64(len(args)))
	for b.Loop() {
		if _, err := ParseArgs(args); err != nil {
			b.Fatal(err)
		}
	}
}
