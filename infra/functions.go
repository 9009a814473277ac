package main

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// job is a function that runs by schedule. Two runs at once do no harm: the
// work has a lease, and the second one leaves at once. So two may run, and
// no run is refused while a long one is at work.
type job struct {
	name    string
	every   int                 // minutes
	memory  int                 // MiB
	objects map[string][]string // what it may do with objects, by prefix
}

const jobConcurrency = 2

func jobs(c Config) []job {
	return []job{
		{"retention", c.Every, 1024, map[string][]string{"seg/": {"s3:DeleteObject"}}},
		{"compact", c.Every, 2048, map[string][]string{"seg/": {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}}},
		{"sweep", c.SweepEvery, 512, map[string][]string{
			"manifest/": {"s3:GetObject"},                 // says whose objects they are
			"ends/":     {"s3:GetObject", "s3:PutObject"}, // before a sealed WAL is trimmed, its end is marked
			"wal/":      {"s3:DeleteObject"}, "ckpt/": {"s3:DeleteObject", "s3:AbortMultipartUpload"}, "seg/": {"s3:DeleteObject", "s3:AbortMultipartUpload"},
		}},
	}
}

// functions are the scheduled jobs, and the queue of the runs that failed.
type functions struct {
	byName map[string]awslambda.Function
	failed awssqs.Queue
}

func newFunctions(scope constructs.Construct, c Config, s storage, a Assets) functions {
	scope = part(scope, "Functions")
	f := functions{byName: make(map[string]awslambda.Function)}
	f.failed = awssqs.NewQueue(scope, jsii.String("Failed"), &awssqs.QueueProps{
		EnforceSSL: jsii.Bool(true), Encryption: awssqs.QueueEncryption_SQS_MANAGED, RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)),
	})
	suppress(f.failed, "AwsSolutions-SQS3", "this is the dead-letter queue")
	for _, j := range jobs(c) {
		fn := newFunction(scope, c, functionOptions{
			id: title(j.name), dir: a.Functions[j.name], description: "Varve: " + j.name,
			memory: j.memory, timeout: awscdk.Duration_Minutes(jsii.Number(15)), failed: f.failed,
			concurrency: concurrency(c),
			env: map[string]*string{
				"VARVE_BUCKET": s.bucket.BucketName(), "VARVE_TABLE": s.table.TableName(), "VARVE_PREFIX": jsii.String(c.Prefix), "VARVE_CLUSTER": jsii.String(c.Name),
				"VARVE_SETTINGS": jsii.String(settingsText(c.Settings)),
				"VARVE_RESERVE":  jsii.String(fmt.Sprintf("%dm", 3*j.every)),
			},
		})
		s.grant(fn.role, j.objects)
		every := minutes(j.every)
		awsevents.NewRule(scope, jsii.String(title(j.name)+"Schedule"), &awsevents.RuleProps{
			Description: jsii.String("runs " + j.name), Schedule: awsevents.Schedule_Rate(every), Enabled: jsii.Bool(c.Schedules),
			Targets: &[]awsevents.IRuleTarget{awseventstargets.NewLambdaFunction(fn.fn, &awseventstargets.LambdaFunctionProps{
				DeadLetterQueue: f.failed, MaxEventAge: every, RetryAttempts: jsii.Number(2),
			})},
		})
		f.byName[j.name] = fn.fn
	}
	return f
}

// concurrency limits the runs of a job where the account's own limit allows
// for a reservation.
func concurrency(c Config) *float64 {
	if !c.Reserve {
		return nil
	}
	return jsii.Number(jobConcurrency)
}

type functionOptions struct {
	id, dir, description string
	memory               int // MiB
	timeout              awscdk.Duration
	concurrency          *float64     // nil: the account's
	failed               awssqs.Queue // nil: none
	env                  map[string]*string
}

type function struct {
	fn   awslambda.Function
	role awsiam.Role
}

// newFunction makes a function with a role that may only write its own log.
func newFunction(scope constructs.Construct, c Config, o functionOptions) function {
	logs := awslogs.NewLogGroup(scope, jsii.String(o.id+"Logs"), &awslogs.LogGroupProps{
		Retention: logDays(c), RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	role := awsiam.NewRole(scope, jsii.String(o.id+"Role"), &awsiam.RoleProps{
		AssumedBy: awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil), Description: jsii.String(o.description),
	})
	logs.GrantWrite(role)
	runtime, arch := lambdaRuntime(c)
	props := &awslambda.FunctionProps{
		Description: jsii.String(o.description), Runtime: runtime, Architecture: arch, Handler: jsii.String("bootstrap"),
		Code: awslambda.Code_FromAsset(jsii.String(o.dir), nil), MemorySize: jsii.Number(o.memory), Timeout: o.timeout,
		Role: role, LogGroup: logs, LoggingFormat: awslambda.LoggingFormat_TEXT, ReservedConcurrentExecutions: o.concurrency, Environment: &o.env,
	}
	if o.failed != nil {
		props.DeadLetterQueue = o.failed
		props.RetryAttempts = jsii.Number(1)
	}
	return function{fn: awslambda.NewFunction(scope, jsii.String(o.id), props), role: role}
}
