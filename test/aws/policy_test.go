package aws

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// LocalStack lets everybody do everything. So what has a role or a policy of
// the template talks to it through a gate that lets through what that allows.

// template is what of a stack's template says who may do what.
type template struct {
	Resources map[string]struct {
		Type       string
		Properties struct {
			Description    any
			Role           any
			Roles          []any
			PolicyDocument struct{ Statement []statement }
		}
	}
}

// statement allows something: every one of the template's does.
type statement struct{ Action, Resource any }

// allowed is an action of AWS on a resource: "bucket", "bucket/<key>", "table";
// in a policy a key may end in *.
type allowed struct{ action, resource string }

// policy returns what the policies that a predicate chooses allow.
func (tmpl *template) policy(t *testing.T, of func(kind string, roles []any) bool) (all []allowed) {
	t.Helper()
	for _, r := range tmpl.Resources {
		if !of(r.Type, r.Properties.Roles) {
			continue
		}
		for _, s := range r.Properties.PolicyDocument.Statement {
			for _, action := range listOf(s.Action) {
				for _, on := range listOf(s.Resource) {
					all = append(all, allowed{fmt.Sprint(action), tmpl.resource(on)})
				}
			}
		}
	}
	if len(all) == 0 {
		t.Fatal("the template has no such policy")
	}
	return all
}

// ofJob returns what a job's function may do.
func (tmpl *template) ofJob(t *testing.T, job string) []allowed {
	t.Helper()
	var role string
	for _, r := range tmpl.Resources {
		if r.Type == "AWS::Lambda::Function" && r.Properties.Description == "Varve: "+job {
			role = fmt.Sprint(r.Properties.Role.(map[string]any)["Fn::GetAtt"].([]any)[0])
		}
	}
	return tmpl.policy(t, func(kind string, roles []any) bool {
		return kind == "AWS::IAM::Policy" && slices.ContainsFunc(roles, func(r any) bool { return r.(map[string]any)["Ref"] == role })
	})
}

// ofReader returns what the policy for readers allows.
func (tmpl *template) ofReader(t *testing.T) []allowed {
	t.Helper()
	return tmpl.policy(t, func(kind string, _ []any) bool { return kind == "AWS::IAM::ManagedPolicy" })
}

func listOf(x any) []any {
	if all, ok := x.([]any); ok {
		return all
	}
	return []any{x}
}

// resource reads {"Fn::GetAtt": [id, "Arn"]} and {"Fn::Join": ["", [such, text …]]}.
func (tmpl *template) resource(x any) string {
	m, ok := x.(map[string]any)
	if !ok {
		return fmt.Sprint(x)
	}
	if join, ok := m["Fn::Join"].([]any); ok {
		var b strings.Builder
		for _, part := range join[1].([]any) {
			b.WriteString(tmpl.resource(part))
		}
		return b.String()
	}
	if get, ok := m["Fn::GetAtt"].([]any); ok {
		switch tmpl.Resources[fmt.Sprint(get[0])].Type {
		case "AWS::S3::Bucket":
			return "bucket"
		case "AWS::DynamoDB::Table":
			return "table"
		}
	}
	return ""
}

// asked returns what a request to S3 or DynamoDB needs.
func asked(r *http.Request, body []byte) (all []allowed) {
	if op := operationOf(r); op == "TransactWriteItems" {
		var ops struct{ TransactItems []map[string]any }
		if json.Unmarshal(body, &ops) != nil {
			return []allowed{{"dynamodb:" + op, "?"}}
		}
		for _, item := range ops.TransactItems {
			for kind := range item {
				name := map[string]string{"Put": "PutItem", "Delete": "DeleteItem", "Update": "UpdateItem", "ConditionCheck": "ConditionCheckItem"}[kind]
				all = append(all, allowed{"dynamodb:" + name, "table"})
			}
		}
		return all
	} else if op != "" {
		return []allowed{{"dynamodb:" + op, "table"}}
	}
	_, key, object := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	on, q := "bucket/"+key, r.URL.Query()
	switch {
	case object && key != "" && r.Method == http.MethodDelete && q.Has("uploadId"):
		return []allowed{{"s3:AbortMultipartUpload", on}}
	case object && key != "":
		name := map[string]string{http.MethodGet: "GetObject", http.MethodHead: "GetObject", http.MethodPut: "PutObject", http.MethodPost: "PutObject", http.MethodDelete: "DeleteObject"}[r.Method]
		return []allowed{{"s3:" + name, on}}
	case r.Method == http.MethodPost && q.Has("delete"):
		var keys struct {
			Object []struct{ Key string }
		}
		if xml.Unmarshal(body, &keys) != nil {
			return []allowed{{"s3:DeleteObject", "?"}}
		}
		for _, o := range keys.Object {
			all = append(all, allowed{"s3:DeleteObject", "bucket/" + o.Key})
		}
		return all
	case r.Method == http.MethodGet && q.Has("uploads"):
		return []allowed{{"s3:ListBucketMultipartUploads", "bucket"}}
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		return []allowed{{"s3:ListBucket", "bucket"}}
	}
	return []allowed{{"s3:" + r.Method, "bucket"}}
}

// by tells whether a policy allows an action.
func (a allowed) by(policy []allowed) bool {
	return slices.ContainsFunc(policy, func(p allowed) bool {
		prefix, wild := strings.CutSuffix(p.resource, "*")
		return p.action == a.action && (p.resource == a.resource || wild && strings.HasPrefix(a.resource, prefix))
	})
}

// gate is a server before LocalStack that does what a policy allows.
type gate struct {
	URL string

	mu      sync.Mutex // guards the rest
	passed  int
	refused []allowed
}

func newGate(t *testing.T, endpoint string, policy []allowed) *gate {
	t.Helper()
	to, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	g := new(gate)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if g.allows(policy, asked(r, body)) {
			proxy.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"__type":"com.amazon.coral.service#AccessDeniedException","message":"the role does not allow it"}`)
	}))
	t.Cleanup(server.Close)
	g.URL = server.URL
	return g
}

func (g *gate) allows(policy, all []allowed) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passed++
	for _, a := range all {
		if !a.by(policy) {
			g.refused = append(g.refused, a)
			return false
		}
	}
	return true
}

// check tells what was refused, and that the gate was used at all.
func (g *gate) check(t *testing.T, who string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.refused) > 0 {
		t.Errorf("%s was refused %d times: %v", who, len(g.refused), g.refused[0])
	}
	if g.passed == 0 {
		t.Errorf("%s asked for nothing", who)
	}
}
