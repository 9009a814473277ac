package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// taskMetadata has what matters of the answer in the ECS developer guide.
const taskMetadata = `{"Cluster":"arn:aws:ecs:eu-west-1:1:cluster/c","TaskARN":"arn:aws:ecs:eu-west-1:1:task/c/1","AvailabilityZone":"eu-west-1b","LaunchType":"FARGATE",
"Containers":[{"Name":"broker","Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["10.84.17.203"],"AttachmentIndex":0,"SubnetGatewayIpv4Address":"10.84.16.1/20"}]}]}`

func TestFromTask(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v4/abc/task" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, taskMetadata)
	}))
	defer server.Close()
	f := &brokerFlags{listen: "0.0.0.0:9092", id: 1}
	if err := f.fromTask(t.Context(), server.URL+"/v4/abc", func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if f.id != 17<<8|203 || f.rack != "eu-west-1b" || f.advertise != "10.84.17.203:9092" {
		t.Errorf("id %d, rack %s, advertise %s", f.id, f.rack, f.advertise)
	}
	f = &brokerFlags{listen: "0.0.0.0:9092", id: 7, rack: "r", advertise: "h:1"}
	if err := f.fromTask(t.Context(), server.URL+"/v4/abc", func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if f.id != 7 || f.rack != "r" || f.advertise != "h:1" {
		t.Errorf("flags were overruled: %+v", f)
	}
	for _, uri := range []string{"", server.URL + "/other"} {
		if err := f.fromTask(t.Context(), uri, func(string) bool { return true }); err == nil || !strings.Contains(err.Error(), "metadata") {
			t.Errorf("%q: %v", uri, err)
		}
	}
}
