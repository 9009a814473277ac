package aws

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// deployment is the stack of infra/ on LocalStack, as far as its free edition
// goes: storage, functions, schedules, alarms. It knows no VPC endpoints, load
// balancers or Fargate, so brokers are processes beside it (brokers=0).
type deployment struct {
	endpoint string
	outputs  map[string]string
	template template
}

const (
	stackName = "orders"
	bucket    = "cdk-hnb659fds-assets-000000000000-us-east-1" // of assets, as `cdk bootstrap` makes it
)

// deploy does what `cdk deploy` does: it makes the template and the assets,
// puts them where the template says, and has CloudFormation make the stack.
func deploy(t *testing.T, endpoint string, context map[string]any) *deployment {
	t.Helper()
	context["name"], context["brokers"] = stackName, 0
	dir := synthesize(t, context)
	request(t, endpoint, "s3", "PUT /"+bucket, nil, nil)
	call(t, endpoint, "ssm", "AmazonSSM.PutParameter", map[string]any{"Name": "/cdk-bootstrap/hnb659fds/version", "Type": "String", "Value": "30"})
	var manifest struct {
		Files map[string]struct {
			Source       struct{ Path, Packaging string }
			Destinations map[string]struct{ ObjectKey string }
		}
	}
	readJSON(t, filepath.Join(dir, stackName+".assets.json"), &manifest)
	for _, f := range manifest.Files {
		body := contentOf(t, filepath.Join(dir, f.Source.Path), f.Source.Packaging)
		for _, to := range f.Destinations {
			request(t, endpoint, "s3", "PUT /"+bucket+"/"+to.ObjectKey, nil, body)
		}
	}
	// It begins when it is first asked for; CloudFormation would not wait so long.
	call(t, endpoint, "dynamodb", "DynamoDB_20120810.ListTables", map[string]any{})
	made := filepath.Join(dir, stackName+".template.json")
	request(t, endpoint, "s3", "PUT /"+bucket+"/template.json", nil, contentOf(t, made, "file"))
	cloudFormation(t, endpoint, url.Values{
		"Action": {"CreateStack"}, "StackName": {stackName}, "TemplateURL": {endpoint + "/" + bucket + "/template.json"},
		"Capabilities.member.1": {"CAPABILITY_NAMED_IAM"},
	}, nil)
	d := &deployment{endpoint: endpoint, outputs: awaitStack(t, endpoint)}
	readJSON(t, made, &d.template)
	return d
}

// synthesize runs the app of infra/ and returns the folder of what it made.
func synthesize(t *testing.T, context map[string]any) string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("Node is missing: nothing is deployed")
	}
	infra, dir := filepath.Join(brokertest.Root(t), "infra"), t.TempDir()
	var app struct{ Context map[string]any }
	readJSON(t, filepath.Join(infra, "cdk.json"), &app)
	maps.Copy(app.Context, context)
	text, err := json.Marshal(app.Context)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "run", ".")
	cmd.Dir = infra
	cmd.Env = append(os.Environ(), "CDK_OUTDIR="+dir, "CDK_CONTEXT_JSON="+string(text), "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("synthesize: %v\n%s", err, out)
	}
	return dir
}

func readJSON(t *testing.T, path string, out any) {
	t.Helper()
	if err := json.Unmarshal(contentOf(t, path, "file"), out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// contentOf returns a file, or a folder as a ZIP file.
func contentOf(t *testing.T, path, packaging string) []byte {
	t.Helper()
	if packaging != "zip" {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	err := z.AddFS(os.DirFS(path))
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatalf("pack %s: %v", path, err)
	}
	return packed.Bytes()
}

// cloudFormation makes a request of CloudFormation.
func cloudFormation(t *testing.T, endpoint string, form url.Values, out any) {
	t.Helper()
	form.Set("Version", "2010-05-15")
	answer := request(t, endpoint, "cloudformation", "POST /", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, []byte(form.Encode()))
	if out == nil {
		return
	}
	if err := xml.Unmarshal(answer, out); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
}

// awaitStack waits until the stack is complete and returns its outputs.
func awaitStack(t *testing.T, endpoint string) map[string]string {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; wait(t, time.Second) {
		var got struct {
			Status  string `xml:"DescribeStacksResult>Stacks>member>StackStatus"`
			Reason  string `xml:"DescribeStacksResult>Stacks>member>StackStatusReason"`
			Outputs []struct {
				Key   string `xml:"OutputKey"`
				Value string `xml:"OutputValue"`
			} `xml:"DescribeStacksResult>Stacks>member>Outputs>member"`
		}
		cloudFormation(t, endpoint, url.Values{"Action": {"DescribeStacks"}, "StackName": {stackName}}, &got)
		outputs := make(map[string]string)
		for _, o := range got.Outputs {
			outputs[o.Key] = o.Value
		}
		switch {
		case got.Status == "CREATE_COMPLETE":
			return outputs
		case got.Status != "CREATE_IN_PROGRESS", time.Now().After(deadline):
			t.Fatalf("stack is %s: %s", got.Status, got.Reason)
		}
	}
}

// hold puts a gate before each job's function, which lets through what the
// function's role allows.
func (d *deployment) hold(t *testing.T, jobs ...string) map[string]*gate {
	t.Helper()
	var list struct {
		Functions []struct {
			FunctionName, Description string
			Environment               struct{ Variables map[string]string }
		}
	}
	const functions = "/2015-03-31/functions/"
	if err := json.Unmarshal(request(t, d.endpoint, "lambda", "GET "+functions, nil, nil), &list); err != nil {
		t.Fatal(err)
	}
	gates := make(map[string]*gate)
	for _, f := range list.Functions {
		job, ok := strings.CutPrefix(f.Description, "Varve: ")
		if !ok || !slices.Contains(jobs, job) {
			continue
		}
		gates[job] = newGate(t, d.endpoint, d.template.ofJob(t, job))
		variables := f.Environment.Variables
		variables["AWS_ENDPOINT_URL_S3"], variables["AWS_ENDPOINT_URL_DYNAMODB"] = gates[job].URL, gates[job].URL
		body, err := json.Marshal(map[string]any{"Environment": map[string]any{"Variables": variables}})
		if err != nil {
			t.Fatal(err)
		}
		request(t, d.endpoint, "lambda", "PUT "+functions+f.FunctionName+"/configuration", map[string]string{"Content-Type": "application/json"}, body)
	}
	if len(gates) != len(jobs) {
		t.Fatalf("functions: %+v", list)
	}
	return gates
}
