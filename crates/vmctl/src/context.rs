//! What every command needs: project, zone, a client, and how to speak.

use std::sync::Arc;

use clarateach_gcp::{
    Compute, Credentials, Endpoint, GcpError, Instance, Patience, ProjectInZone, ResourceName,
};

use crate::cli::{Format, Global};
use crate::failure::Failure;
use crate::output;

const DEFAULT_ZONE: &str = "us-central1-a";

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    /// Project and zone.
    pub place: ProjectInZone,
    /// Whether the command line names that zone.
    pub zone_is_given: bool,
    /// Where the API is.
    pub endpoint: Endpoint,
    /// How results are printed.
    pub format: Format,
    /// Only show.
    pub dry_run: bool,
    /// Ask nothing.
    pub yes: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

impl Context {
    /// From the command line and the environment.
    ///
    /// # Errors
    /// Without a project, or with names that can't be any.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let project = global
            .project
            .clone()
            .or_else(|| variable("GCP_PROJECT"))
            .or_else(|| variable("CLOUDSDK_CORE_PROJECT"))
            .ok_or_else(|| {
                Failure::Usage(
                    "no project: give --project, or set GCP_PROJECT to the project's id".to_owned(),
                )
            })?;
        let zone =
            global.zone.clone().or_else(|| variable("GCP_ZONE")).unwrap_or_else(|| DEFAULT_ZONE.to_owned());
        let endpoint = match global.endpoint.clone().or_else(|| variable("GCP_API_URL")) {
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => Endpoint::new(&url),
            Some(url) => {
                return Err(Failure::Usage(format!("GCP_API_URL: {url} is no http:// or https:// URL")));
            }
            None => Endpoint::default(),
        };
        Ok(Self {
            place: ProjectInZone::new(&project, &zone)?,
            zone_is_given: global.zone.is_some(),
            endpoint,
            format: global.format,
            dry_run: global.dry_run,
            yes: global.yes,
        })
    }

    /// A client.
    ///
    /// # Errors
    /// When the credentials that are named can't be used.
    pub fn compute(&self) -> Result<Compute, Failure> {
        let credentials = Credentials::find(|name| std::env::var(name).ok()).map_err(GcpError::from)?;
        let endpoint = self.endpoint.clone();
        Ok(Compute::new(endpoint, self.place.clone(), Arc::new(credentials), Patience::default())?)
    }

    /// An instance that has to be there.
    ///
    /// # Errors
    /// When it is not.
    pub async fn instance(&self, compute: &Compute, name: &ResourceName) -> Result<Instance, Failure> {
        compute.instance(name).await?.ok_or_else(|| self.no_instance(name))
    }

    pub(crate) fn no_instance(&self, name: &ResourceName) -> Failure {
        let (zone, project) = (&self.place.zone, &self.place.project);
        Failure::NotFound(format!(
            "there is no VM {name} in {zone} of {project}; `vmctl list` shows what there is"
        ))
    }

    /// Prints instances, one a line or as JSON.
    pub fn print_instances(&self, instances: Vec<Instance>) {
        match self.format {
            Format::Json => {
                let all: Vec<_> = instances.into_iter().map(output::without_secrets).collect();
                output::print_json(&all);
            }
            Format::Table if instances.is_empty() => output::note("no VMs"),
            Format::Table => {
                let rows = instances.iter().map(output::instance_row).collect();
                output::print(&output::table(output::INSTANCE_HEADINGS, rows));
            }
        }
    }

    /// Prints one instance as it is now.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn print_instance(&self, compute: &Compute, name: &ResourceName) -> Result<(), Failure> {
        let instance = self.instance(compute, name).await?;
        match self.format {
            Format::Json => output::print_json(&output::without_secrets(instance)),
            Format::Table => self.print_instances(vec![instance]),
        }
        Ok(())
    }
}
