package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/assertions"
	"github.com/aws/jsii-runtime-go"
	"github.com/cdklabs/cdk-nag-go/cdknag/v2"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden templates")

// stackOf makes the stack as the app does, with assets whose content, and so
// whose hash, is always the same.
func stackOf(t *testing.T, context map[string]any) (awscdk.Stack, Config) {
	t.Helper()
	app := awscdk.NewApp(&awscdk.AppProps{Outdir: jsii.String(t.TempDir()), Context: contextOf(t, context)})
	c, err := configOf(app)
	if err != nil {
		t.Fatal(err)
	}
	return newStack(app, c, fakeAssets(t, c)), c
}

// contextOf returns the context of cdk.json with more in it.
func contextOf(t *testing.T, more map[string]any) *map[string]any {
	t.Helper()
	b, err := os.ReadFile("cdk.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Context map[string]any }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	for k, v := range more {
		file.Context[k] = v
	}
	return &file.Context
}

func fakeAssets(t *testing.T, c Config) Assets {
	t.Helper()
	dir := func(name string) string {
		d := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "bootstrap"), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
		return d
	}
	a := Assets{Functions: map[string]string{}, Push: dir("push"), Image: dir("image"), Digest: "sha256:" + strings.Repeat("0", 64)}
	for _, j := range jobs(c) {
		a.Functions[j.name] = dir(j.name)
	}
	return a
}

func templateOf(t *testing.T, context map[string]any) assertions.Template {
	t.Helper()
	stack, _ := stackOf(t, context)
	return assertions.Template_FromStack(stack, nil)
}

// TestGolden shows in a review what a change does to a deployment.
func TestGolden(t *testing.T) {
	for _, size := range []string{"standard", "dev"} {
		t.Run(size, func(t *testing.T) {
			got, err := json.MarshalIndent(templateOf(t, map[string]any{"size": size}).ToJSON(), "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", size+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
				t.Errorf("the template has changed (-want +got); go test -update writes it anew:\n%s", d)
			}
		})
	}
}

// TestNag holds every resource to the AWS solutions rules, or to a reason.
func TestNag(t *testing.T) {
	for _, context := range []map[string]any{{"size": "standard"}, {"size": "dev"}, {"brokers": 0, "prefix": "p"}} {
		stack, _ := stackOf(t, context)
		awscdk.Aspects_Of(stack).Add(cdknag.NewAwsSolutionsChecks(nil), nil)
		found := assertions.Annotations_FromStack(stack)
		any := assertions.Match_StringLikeRegexp(jsii.String("AwsSolutions-.*"))
		for _, m := range *found.FindError(jsii.String("*"), any) {
			t.Errorf("%v: %s: %v", context, *m.Id, m.Entry.Data) //nolint:staticcheck // its successor is in a module that has no Go binding
		}
		for _, m := range *found.FindWarning(jsii.String("*"), any) {
			t.Errorf("%v: %s: %v", context, *m.Id, m.Entry.Data) //nolint:staticcheck // its successor is in a module that has no Go binding
		}
	}
}

// object and list shorten what the assertions take.
type object = map[string]any
type list = []any

func like(o object) assertions.Matcher { return assertions.Match_ObjectLike(&o) }

func TestStorage(t *testing.T) {
	tmpl := templateOf(t, nil)
	tmpl.HasResource(jsii.String("AWS::S3::Bucket"), object{
		"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain",
		"Properties": object{
			"BucketEncryption":               assertions.Match_AnyValue(),
			"PublicAccessBlockConfiguration": object{"BlockPublicAcls": true, "BlockPublicPolicy": true, "IgnorePublicAcls": true, "RestrictPublicBuckets": true},
			"VersioningConfiguration":        assertions.Match_Absent(),
			// Nothing but uploads that were never completed: a rule that lets
			// objects expire would let seals expire.
			"LifecycleConfiguration": assertions.Match_Exact(object{"Rules": list{object{
				"Id": "abort-multipart-uploads", "Status": "Enabled", "AbortIncompleteMultipartUpload": object{"DaysAfterInitiation": 1},
			}}}),
		},
	})
	tmpl.HasResourceProperties(jsii.String("AWS::S3::BucketPolicy"), object{"PolicyDocument": object{"Statement": assertions.Match_ArrayWith(&list{
		like(object{"Effect": "Deny", "Action": "s3:*", "Principal": object{"AWS": "*"}, "Condition": object{"Bool": object{"aws:SecureTransport": "false"}}}),
	})}})
	tmpl.HasResource(jsii.String("AWS::DynamoDB::Table"), object{
		"DeletionPolicy": "Retain",
		"Properties": object{
			"BillingMode": "PAY_PER_REQUEST",
			"KeySchema":   list{object{"AttributeName": "pk", "KeyType": "HASH"}, object{"AttributeName": "sk", "KeyType": "RANGE"}},
			"AttributeDefinitions": list{
				object{"AttributeName": "pk", "AttributeType": "S"}, object{"AttributeName": "sk", "AttributeType": "S"},
			},
			"TimeToLiveSpecification":   assertions.Match_Absent(),
			"DeletionProtectionEnabled": true, "PointInTimeRecoverySpecification": object{"PointInTimeRecoveryEnabled": true},
		},
	})
	templateOf(t, map[string]any{"size": "dev"}).HasResource(jsii.String("AWS::DynamoDB::Table"), object{"DeletionPolicy": "Delete"})
}

func TestNetworkIsClosed(t *testing.T) {
	tmpl := templateOf(t, nil)
	for _, way := range []string{"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EgressOnlyInternetGateway", "AWS::EC2::VPCPeeringConnection"} {
		tmpl.ResourceCountIs(jsii.String(way), jsii.Number(0))
	}
	tmpl.ResourceCountIs(jsii.String("AWS::EC2::Subnet"), jsii.Number(3))
	tmpl.AllResourcesProperties(jsii.String("AWS::EC2::Subnet"), object{"MapPublicIpOnLaunch": false})
	for _, service := range []string{"s3", "dynamodb"} {
		tmpl.HasResourceProperties(jsii.String("AWS::EC2::VPCEndpoint"), object{
			"VpcEndpointType": "Gateway", "RouteTableIds": assertions.Match_AnyValue(),
			"ServiceName": object{"Fn::Join": list{"", list{"com.amazonaws.", object{"Ref": "AWS::Region"}, "." + service}}},
		})
	}
	tmpl.HasResourceProperties(jsii.String("AWS::ElasticLoadBalancingV2::LoadBalancer"), object{"Scheme": "internal", "Type": "network"})
	tmpl.HasResourceProperties(jsii.String("AWS::ECS::Service"), object{"NetworkConfiguration": object{"AwsvpcConfiguration": like(object{"AssignPublicIp": "DISABLED"})}})
	anywhere := tmpl.FindResources(jsii.String("AWS::EC2::SecurityGroup"), object{
		"Properties": object{"SecurityGroupIngress": assertions.Match_ArrayWith(&list{like(object{"CidrIp": "0.0.0.0/0"})})},
	})
	if n := len(*anywhere); n > 0 {
		t.Errorf("%d security groups are open to the world", n)
	}
}

func TestBrokers(t *testing.T) {
	tmpl := templateOf(t, nil)
	tmpl.HasResourceProperties(jsii.String("AWS::ECS::TaskDefinition"), object{
		"RuntimePlatform":         object{"CpuArchitecture": "ARM64", "OperatingSystemFamily": "LINUX"},
		"RequiresCompatibilities": list{"FARGATE"}, "Cpu": "2048", "Memory": "8192",
		"EphemeralStorage": object{"SizeInGiB": 100},
		"ContainerDefinitions": list{like(object{
			"StopTimeout": 120, "ReadonlyRootFilesystem": true,
			"Command":     assertions.Match_ArrayWith(&list{"broker", "--fargate", "--bucket"}),
			"MountPoints": list{object{"ContainerPath": cacheDir, "ReadOnly": false, "SourceVolume": "cache"}},
		})},
	})
	tmpl.HasResourceProperties(jsii.String("AWS::ElasticLoadBalancingV2::Listener"), object{"Port": 9092, "Protocol": "TCP"})
	tmpl.HasResourceProperties(jsii.String("AWS::ElasticLoadBalancingV2::TargetGroup"), object{
		"HealthCheckPath": "/readyz", "HealthCheckPort": "9644", "HealthCheckProtocol": "HTTP", "TargetType": "ip",
	})
	// Three brokers, and never more than one that is new: they drain one by one.
	tmpl.HasResourceProperties(jsii.String("AWS::ECS::Service"), object{
		"DesiredCount":            assertions.Match_Absent(), // a deployment does not undo what scaling did
		"DeploymentConfiguration": like(object{"MinimumHealthyPercent": 100, "MaximumPercent": 134}),
	})
	tmpl.HasResourceProperties(jsii.String("AWS::ApplicationAutoScaling::ScalableTarget"), object{"MinCapacity": 3, "MaxCapacity": 9})
	tmpl.HasResourceProperties(jsii.String("AWS::ApplicationAutoScaling::ScalingPolicy"), object{
		"StepScalingPolicyConfiguration": like(object{"Cooldown": 300, "StepAdjustments": list{like(object{"ScalingAdjustment": -1})}}),
	})
	tmpl.HasOutput(jsii.String("Bootstrap"), object{"Value": assertions.Match_AnyValue()})
}

func TestFunctions(t *testing.T) {
	stack, c := stackOf(t, nil)
	tmpl := assertions.Template_FromStack(stack, nil)
	for _, j := range jobs(c) {
		tmpl.HasResourceProperties(jsii.String("AWS::Lambda::Function"), object{
			"Description": "Varve: " + j.name, "Runtime": "provided.al2023", "Architectures": list{"arm64"}, "Timeout": 900,
			"ReservedConcurrentExecutions": jobConcurrency, "DeadLetterConfig": assertions.Match_AnyValue(),
		})
		tmpl.HasResourceProperties(jsii.String("AWS::Events::Rule"), object{
			"Description": "runs " + j.name, "State": "ENABLED", "ScheduleExpression": assertions.Match_StringLikeRegexp(jsii.String(`rate\(.*\)`)),
		})
	}
}

// TestAlarms: what a job writes once a run is looked at over some runs, and
// what DynamoDB counts by operation is asked for by operation.
func TestAlarms(t *testing.T) {
	tmpl := templateOf(t, nil)
	for name, period := range map[string]int{"retention": 3600, "compact": 3600, "sweep": 12 * 3600} {
		tmpl.HasResourceProperties(jsii.String("AWS::CloudWatch::Alarm"), object{
			"AlarmDescription": "varve: " + name + " does not keep up: its runs end before the work does",
			"MetricName":       "Unfinished", "Statistic": "Minimum", "Period": period, "EvaluationPeriods": 1,
		})
	}
	for _, metric := range []string{"ThrottledRequests", "SystemErrors"} {
		tmpl.HasResourceProperties(jsii.String("AWS::CloudWatch::Alarm"), object{"Metrics": assertions.Match_ArrayWith(&list{like(object{
			"MetricStat": like(object{"Metric": like(object{"MetricName": metric, "Dimensions": assertions.Match_ArrayWith(&list{object{"Name": "Operation", "Value": "TransactWriteItems"}})})}),
		})})})
	}
	tmpl.HasResourceProperties(jsii.String("AWS::CloudWatch::Alarm"), object{"AlarmDescription": "varve: brokers are busy and no more may be added", "Period": 60, "EvaluationPeriods": 15})
}

// TestLeastPrivilege: no statement allows all actions or all resources, but
// those that have none.
func TestLeastPrivilege(t *testing.T) {
	for id, policy := range *templateOf(t, nil).FindResources(jsii.String("AWS::IAM::Policy"), nil) {
		document := (*policy)["Properties"].(object)["PolicyDocument"].(object)
		for _, s := range document["Statement"].(list) {
			st := s.(object)
			text, _ := json.Marshal(st["Action"])
			if strings.Contains(string(text), `:*"`) || strings.Contains(string(text), `"*"`) {
				t.Errorf("%s allows %s", id, text)
			}
			if st["Resource"] == "*" && string(text) != `"ecr:GetAuthorizationToken"` {
				t.Errorf("%s allows %s on everything", id, text)
			}
			writes := strings.Contains(string(text), "s3:Put")
			on, _ := json.Marshal(st["Resource"])
			marks := strings.HasPrefix(id, "FunctionsSweep") && strings.HasSuffix(string(on), `"/ends/*"]]}`)
			if writes && !marks && !strings.HasPrefix(id, "Brokers") && !strings.HasPrefix(id, "FunctionsCompact") {
				t.Errorf("%s may write objects: %s", id, on)
			}
		}
	}
}

// TestSettings: the function that deletes must have the brokers' own defaults.
func TestSettings(t *testing.T) {
	for _, settings := range []any{"log.retention.hours=720,num.partitions=6", map[string]any{"log.retention.hours": 720, "num.partitions": "6"}} {
		tmpl := templateOf(t, map[string]any{"settings": settings})
		tmpl.HasResourceProperties(jsii.String("AWS::ECS::TaskDefinition"), object{"ContainerDefinitions": list{like(object{
			"Command": assertions.Match_ArrayWith(&list{"--config", "cache.disk.bytes=102005473280", "--config", "log.retention.hours=720", "--config", "num.partitions=6"}),
		})}})
		tmpl.HasResourceProperties(jsii.String("AWS::Lambda::Function"), object{
			"Description": "Varve: retention",
			"Environment": object{"Variables": like(object{"VARVE_SETTINGS": `{"log.retention.hours":"720","num.partitions":"6"}`})},
		})
	}
}

func TestWithoutBrokers(t *testing.T) {
	tmpl := templateOf(t, map[string]any{"brokers": "0", "name": "jobs", "schedules": "false"})
	tmpl.AllResourcesProperties(jsii.String("AWS::Events::Rule"), object{"State": "DISABLED"})
	for _, none := range []string{"AWS::ECS::Service", "AWS::EC2::VPC", "AWS::ECR::Repository"} {
		tmpl.ResourceCountIs(jsii.String(none), jsii.Number(0))
	}
	tmpl.HasResourceProperties(jsii.String("AWS::CloudWatch::Dashboard"), object{"DashboardName": "jobs"})
}

func TestTags(t *testing.T) {
	tmpl := templateOf(t, map[string]any{"name": "orders"})
	for resource, name := range map[string]string{
		"AWS::S3::Bucket": "storage", "AWS::ECS::Cluster": "brokers", "AWS::EC2::VPC": "network", "AWS::ECR::Repository": "image",
	} {
		tmpl.HasResourceProperties(jsii.String(resource), object{"Tags": assertions.Match_ArrayWith(&list{
			object{"Key": "varve:cluster", "Value": "orders"}, object{"Key": "varve:part", "Value": name},
		})})
	}
}

func TestConfigRefuses(t *testing.T) {
	for _, context := range []map[string]any{
		{"size": "huge"}, {"brokers": "many"}, {"brokers": -1}, {"zones": 0}, {"disk": 1000}, {"reserve": "perhaps"}, {"settings": "nonsense"},
		{"arch": "mips"}, {"every": 0}, {"sweepEvery": 0},
	} {
		app := awscdk.NewApp(&awscdk.AppProps{Outdir: jsii.String(t.TempDir()), Context: &context})
		if c, err := configOf(app); err == nil {
			t.Errorf("%v: taken, as %+v", context, c)
		}
	}
}
