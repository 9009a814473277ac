package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
	"github.com/cdklabs/cdk-nag-go/cdknag/v2"
)

// Assets are directories on disk that are part of a deployment.
type Assets struct {
	Functions map[string]string // by job: a directory with its bootstrap
	Push      string            // the same of pushimage
	Image     string            // OCI layout of the brokers' image
	Digest    string            // of that image
}

// newStack makes the whole deployment.
func newStack(app awscdk.App, c Config, a Assets) awscdk.Stack {
	stack := awscdk.NewStack(app, jsii.String(c.Name), &awscdk.StackProps{
		Description: jsii.String("Varve, a Kafka-compatible log over S3"),
		// The same template fits any account and region; nothing is looked up.
	})
	awscdk.Tags_Of(stack).Add(jsii.String("varve:cluster"), jsii.String(c.Name), nil)
	if c.Permissions != "" {
		awsiam.PermissionsBoundary_Of(stack).Apply(awsiam.ManagedPolicy_FromManagedPolicyArn(stack, jsii.String("Boundary"), jsii.String(c.Permissions)))
	}
	s := newStorage(stack, c)
	f := newFunctions(stack, c, s, a)
	var b *brokers
	if c.Brokers > 0 {
		made := newBrokers(stack, c, newNetwork(stack, c), s, newImage(stack, c, a))
		b = &made
	}
	newWatch(stack, c, s, f, b)
	return stack
}

// part groups resources: they carry its name in their ids and in the cost tag varve:part.
func part(scope constructs.Construct, name string) constructs.Construct {
	p := constructs.NewConstruct(scope, jsii.String(name))
	awscdk.Tags_Of(p).Add(jsii.String("varve:part"), jsii.String(strings.ToLower(name)), nil)
	return p
}

// output makes a stack output whose name is id alone.
func output(scope constructs.Construct, id string, value *string, description string) {
	awscdk.NewCfnOutput(scope, jsii.String(id+"Output"), &awscdk.CfnOutputProps{Value: value, Description: jsii.String(description)}).
		OverrideLogicalId(jsii.String(id))
}

// suppress says why a rule of cdk-nag does not hold for a construct and what it is made of.
func suppress(c constructs.IConstruct, rule, reason string) {
	cdknag.NagSuppressions_AddResourceSuppressions(c, &[]*cdknag.NagPackSuppression{{Id: jsii.String(rule), Reason: jsii.String(reason)}}, jsii.Bool(true))
}

func logDays(c Config) awslogs.RetentionDays {
	for _, d := range []struct {
		days float64
		name awslogs.RetentionDays
	}{
		{1, awslogs.RetentionDays_ONE_DAY}, {7, awslogs.RetentionDays_ONE_WEEK}, {14, awslogs.RetentionDays_TWO_WEEKS},
		{30, awslogs.RetentionDays_ONE_MONTH}, {90, awslogs.RetentionDays_THREE_MONTHS},
	} {
		if c.LogDays <= d.days {
			return d.name
		}
	}
	return awslogs.RetentionDays_ONE_YEAR
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
